import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config import RunConfig
from orchestrator.config_help import all_options, options_table
from orchestrator.config_loading import load_config, make_config, parse_override
from orchestrator.errors import ConfigError
from orchestrator.plain_yaml import read_yaml
from workers.profiling import Profile


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("bacth_size=3", "unknown key 'bacth_size' (did you mean 'batch_size'?)"),
        (
            "failures.pulse_deadlin=3",
            "unknown key 'failures.pulse_deadlin' (did you mean 'failures.pulse_deadline'?)",
        ),
        ("batch_size=-1", "batch_size: input should be greater than or equal to 1, but it is -1"),
        ("batch_size=1.5", "batch_size: input should be a valid integer"),
        ("batch_size='64'", "batch_size: input should be a valid integer, but it is '64'"),
        ("record_rows=1", "record_rows: input should be a valid boolean, but it is 1"),
        ("platform=cuda", "platform: input should be 'cpu', 'gpu' or 'tpu', but it is 'cuda'"),
        ("limits=manual", "limits: input should be 'auto', but it is 'manual'"),
        (
            "limits.a.max_ids_per_partitio=3",
            "(did you mean 'limits.a.max_ids_per_partition'?)",
        ),
        ("limits.a={}", "limits.a.max_ids_per_partition: field required"),
        ("seed.x=1", "seed: input should be a valid integer, but it is {'x': 1}"),
        ("checkpoints=3", "checkpoints: input should be a valid dictionary"),
        ("seed", "'seed' is not of the form key=value"),
        ("=3", "'=3' is not of the form key=value"),
        ("parameters.layers=[1", "parameters.layers: the value '[1' is not YAML"),
        ("parameters={a: 1, a: 2}", "the key 'a' stands twice"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_name_and_the_right_one(word, message):
    with pytest.raises(ConfigError) as caught:
        load_config(None, [word])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_mistakes_are_told_at_once():
    with pytest.raises(ConfigError, match=r"hosts: .*; unknown key 'epoch' .*'epochs'"):
        make_config({"hosts": 0, "epoch": 3})


def test_a_key_that_resembles_none_is_answered_with_all_of_them():
    with pytest.raises(ConfigError, match=r"unknown key 'zzz' \(known keys: batch_size, .*seed"):
        make_config({"zzz": 1})


def test_overrides_come_after_the_file_and_lead_into_sections(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        "epochs: 7\nparameters: {embedding_dim: 8, layers: [4]}\nfailures:\n  grace: 1\n"
    )
    config = load_config(
        path,
        ["parameters.embedding_dim=16", "parameters.rate=1e-3", "checkpoints.every=5", "seed=3"],
    )
    assert config.epochs == 7
    assert config.parameters == {"embedding_dim": 16, "layers": [4], "rate": 0.001}
    assert config.checkpoints.every == 5
    assert config.failures.grace == 1.0
    assert config.failures.max_restarts == RunConfig().failures.max_restarts


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"first": 5}, "profile needs both first and last"),
        ({"first": 5, "last": 5}, "profile.last is 5, but must be beyond profile.first, 5"),
        ({"first": 5, "last": 8, "hosts": []}, "at least 1 item"),
        ({"first": 5, "last": 8, "hosts": [0, 2]}, "profile.hosts has 2, but the ranks of 2 hosts"),
    ],
)
def test_a_profile_is_of_steps_and_hosts_that_there_are(settings, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        make_config({"profile": settings})
    assert RunConfig().run_spec("", "").profile is None
    profile = make_config({"profile": {"first": 5, "last": 8, "hosts": [1]}})
    assert profile.run_spec("", "").profile == Profile(5, 8, (1,))


def test_errors_of_a_file_name_the_file(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("epochs: many\n")
    with pytest.raises(ConfigError, match=f"{re.escape(str(path))}: epochs: .*'many'"):
        load_config(path)
    with pytest.raises(ConfigError, match=r"cannot read .*missing\.yaml: No such file"):
        load_config(tmp_path / "missing.yaml")
    path.write_text("a: [")
    with pytest.raises(ConfigError, match="is not YAML"):
        load_config(path)
    path.write_text("- 1\n")
    with pytest.raises(ConfigError, match="must hold keys and values, but holds a list"):
        load_config(path)
    path.write_text("seed: 1\nseed: 2\n")
    with pytest.raises(ConfigError, match="the key 'seed' stands twice"):
        load_config(path)
    path.write_text("")
    assert load_config(path) == RunConfig()


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("-2.5E+4", -25000.0), ("1", 1), ("null", None), ("", None), ("1e", "1e"),
     ("[64, 32]", [64, 32]), ("a=b", "a=b"), ("e3", "e3")],
)  # fmt: skip
def test_values_of_overrides_are_yaml(text, value):
    assert parse_override(f"a.b={text}") == (("a", "b"), value)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "hosts": st.integers(1, 64),
            "data": st.none() | st.text(),
            "max_steps": st.none() | st.integers(1),
            "parameters": st.dictionaries(
                st.text(min_size=1),
                st.integers()
                | st.floats(allow_nan=False)
                | st.text()
                | st.sampled_from(["1e3", "-.5E2", "true", "null", "3"])
                | st.lists(st.booleans()),
            ),
            "limits": st.just("auto")
            | st.dictionaries(
                st.text(min_size=1),
                st.fixed_dictionaries(
                    {
                        "max_ids_per_partition": st.integers(1, 9),
                        "max_unique_ids_per_partition": st.integers(1, 9),
                        "buffer_size_per_device": st.integers(1, 9),
                    }
                ),
            ),
            "failures": st.fixed_dictionaries({"grace": st.floats(0, 1e6)}),
        },
    )
)
def test_the_resolved_yaml_is_read_back_to_the_same_configuration(values):
    config = make_config(values)
    assert make_config(read_yaml(config.to_yaml())) == config


def test_every_option_has_a_description_a_type_and_a_default_in_the_help():
    options = {option.name: option for option in all_options()}
    table = options_table()
    for option in options.values():
        assert len(option.description) > 10, option.name
        assert f"  {option.name}: {option.type_name} = {option.default}\n" in table
    assert options["max_steps"].type_name == "int | null"
    assert options["max_steps"].default == "null"
    assert options["failures.pulse_deadline"].default == "20.0"
    assert options["platform"].type_name == "cpu | gpu | tpu"
    leaves = set()

    def walk(values, prefix=""):
        for key, value in values.items():
            if isinstance(value, dict) and key not in ("parameters", "resources_per_host"):
                walk(value, f"{prefix}{key}.")
            else:
                leaves.add(prefix + key)

    walk(RunConfig().model_dump())
    assert set(options) == leaves


def test_the_identity_holds_what_must_not_change_and_nothing_else():
    base = RunConfig(parameters={"dim": 8})
    same = RunConfig(
        parameters={"dim": 8},
        epochs=9,
        max_steps=4,
        lease_steps=2,
        failures={"grace": 0.0},
        hosts=3,
        devices_per_host=3,
    )
    assert same.identity("d") == base.identity("d")
    for change in (
        {"program": "a:b"},
        {"parameters": {"dim": 9}},
        {"batch_size": 4},
        {"seed": 1},
        {"logical_shards": 8},
        {"shuffle_window": 8},
    ):
        other = make_config({"parameters": {"dim": 8}} | change)
        assert other.identity("d") != base.identity("d"), change
    assert base.identity("e") != base.identity("d")


def test_the_run_spec_carries_the_configuration():
    config = make_config(
        {"batch_size": 64, "checkpoints": {"keep": 5}, "failures": {"join_timeout": 7.0}}
    )
    spec = config.run_spec("data", "folder")
    assert (spec.batch_size, spec.join_timeout) == (64, 7.0)
    assert (spec.data, spec.run_folder, spec.program) == ("data", "folder", config.program)
