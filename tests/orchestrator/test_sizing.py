"""With how many hosts a launch goes on when not all of them come."""

from orchestrator.config import RunConfig
from orchestrator.roster import HostView
from orchestrator.sizing import Sizing
from workers.protocol import Hello


def sizing(room, awaits_room=False, **settings):
    elastic = {"sizes": [2, 4], "shrink_after": 60.0, **settings}
    config = RunConfig(hosts=8, batch_size=64, elastic=elastic)
    return Sizing(config, lambda: room, lambda: awaits_room)


def views(hosts, started=0):
    made = [HostView(rank) for rank in range(hosts)]
    for view in made[:started]:
        view.hello = Hello(view.rank, 1, "host", "host:1")
    return made


def test_hosts_that_started_say_how_many_go_on():
    assert sizing(room=0).smaller(views(8, started=5), waited=59.0) is None
    assert sizing(room=0).smaller(views(8, started=5), waited=60.0) == 4
    assert sizing(room=8).smaller(views(8, started=3), waited=60.0) == 2
    assert sizing(room=8).smaller(views(8, started=1), waited=60.0) is None


def test_hosts_that_are_slow_to_start_are_not_given_up_for_room_beside_them():
    assert sizing(room=4).smaller(views(8), waited=60.0) is None


def test_hosts_that_start_all_or_none_go_on_where_there_is_room():
    """Slices and machines: nothing is started, and nobody heard of, until there is room for all."""
    assert sizing(room=4, awaits_room=True).smaller(views(8), waited=60.0) == 4
    assert sizing(room=3, awaits_room=True).smaller(views(8), waited=60.0) == 2
    assert sizing(room=0, awaits_room=True).smaller(views(8), waited=60.0) is None
    assert sizing(room=4, awaits_room=True).smaller(views(8), waited=59.0) is None


def test_hosts_for_which_there_was_no_room_have_their_time_from_then_on():
    waiting = [True]
    config = RunConfig(hosts=8, batch_size=64, elastic={"sizes": [4], "shrink_after": 60.0})
    late = Sizing(config, lambda: 0, lambda: waiting[0])
    for launch in range(2):
        late.launch(0.0)
        waiting[0] = True
        assert late.smaller(views(8), waited=90.0) is None
        waiting[0] = False
        assert late.smaller(views(8, started=4), waited=149.0) is None, launch
        assert late.smaller(views(8, started=4), waited=150.0) == 4
    late.launch(0.0)
    assert late.smaller(views(8, started=4), waited=60.0) == 4, "a later launch had room at once"
