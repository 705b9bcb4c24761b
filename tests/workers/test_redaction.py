"""Secrets are known by their names, and hidden wherever they stand."""

import io
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.redaction import HIDDEN, RedactedStream, Redactor, hidden_in, is_secret_name

SECRETS = [
    *("password", "db_password", "dbPassword", "DB_PASSWD", "api_key", "apiKey", "APIKEY"),
    *("HF_TOKEN", "RAY_AUTH_TOKEN", "token", "access_tokens", "AWS_SECRET_ACCESS_KEY"),
    *("AWS_ACCESS_KEY_ID", "client_secret", "GOOGLE_CREDENTIALS", "privateKey", "secret_2"),
    *("X-Amz-Signature", "X-Amz-Security-Token", "sig", "parameters.api_key"),
    "DB_PWD",
]
OTHERS = [
    *(
        "PWD",
        "OLDPWD",
        "cwd",
        "tokens",
        "max_tokens",
        "token_column",
        "tokenizer",
        "key",
        "primary_key",
        "monkey",
    ),
    *("author", "design", "RAY_AUTH_TOKEN_PATH", "hash_key", "keys", "secretary", "passwords_seen"),
]


@pytest.mark.parametrize("name", SECRETS)
def test_names_of_secrets(name):
    assert is_secret_name(name)


@pytest.mark.parametrize("name", OTHERS)
def test_names_of_other_things(name):
    assert not is_secret_name(name)


def test_values_are_hidden_by_name_and_in_addresses():
    values = {
        "parameters": {"api_key": "swordfish", "token": 3, "width": 8, "layers": [64, 32]},
        "nested": [{"auth": {"password": ["one", "two"]}}],
        "data": "s3://KEY:abc%2Fdef@logs/a?region=x&secret_key=hunter22",
        "public": "gs://anonymous@bucket/logs",
    }
    hide = Redactor.of(values)
    assert hide.values(values) == {
        "parameters": {"api_key": HIDDEN, "token": 3, "width": 8, "layers": [64, 32]},
        "nested": [{"auth": {"password": [HIDDEN, HIDDEN]}}],
        "data": f"s3://{HIDDEN}@logs/a?region=x&secret_key={HIDDEN}",
        "public": "gs://anonymous@bucket/logs",
    }
    # And wherever they turn up: also decoded, as a library may show them.
    said = hide("swordfish is not the key; abc/def, abc%2Fdef and hunter22 neither")
    assert said == f"{HIDDEN} is not the key; {HIDDEN}, {HIDDEN} and {HIDDEN} neither"
    found = set(hidden_in(hide.values(values)))
    assert found == {"parameters.api_key", "nested", "data"}
    assert values["parameters"]["api_key"] == "swordfish"


def test_short_and_missing_secrets_do_no_harm():
    hide = Redactor.of({"password": "a", "token": "", "secret": None})
    assert hide("a banana") == "a banana"
    assert hide.values({"password": "a"}) == {"password": HIDDEN}
    assert Redactor()("file:///a/b?c=d") == "file:///a/b?c=d"


def test_folders_are_no_secrets(tmp_path):
    hide = Redactor.of(
        {"PWD": str(tmp_path), "APP_CREDENTIALS": str(tmp_path), "DB_PWD": "hunter22"}
    )
    assert hide(f"runs in {tmp_path}, not as hunter22") == f"runs in {tmp_path}, not as {HIDDEN}"


def test_a_stream_hides_what_is_printed():
    target = io.StringIO()
    stream = RedactedStream(target, Redactor(["swordfish"]))
    print("the key is swordfish,", "not a fish", file=stream, flush=True)
    assert target.getvalue() == f"the key is {HIDDEN}, not a fish\n"
    assert stream.writable()
    with Path(os.devnull).open("w") as file:
        around = RedactedStream(file, Redactor())
        around.buffer.write(b"as some libraries do")
        assert (around.fileno(), around.encoding) == (file.fileno(), file.encoding)
        assert around.isatty() == file.isatty()
        around.reconfigure(line_buffering=True)
        assert file.line_buffering
        assert not hasattr(around, "nothing")


@given(st.text("ABC123+/.|", min_size=6), st.text(), st.text())
def test_no_secret_is_left_wherever_it_stands(secret, before, after):
    assert secret not in Redactor.of({"password": secret})(f"{before}{secret}{after}{secret}")


@given(st.recursive(st.integers() | st.booleans(), lambda inner: st.lists(inner), max_leaves=9))
def test_values_without_texts_stay_as_they_are(values):
    assert Redactor.of({"password": "swordfish"}).values({"values": values}) == {"values": values}
