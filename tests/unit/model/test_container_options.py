"""What a submitter may set of a container, what a queue may, and both merged."""

from __future__ import annotations

from typing import Any

import pytest

from launch_worker.errors import InputError
from launch_worker.model.container_options import ContainerPlan, Mount, check_queue, check_submitted, parse_mount, plan
from launch_worker.model.spec import RunSpec, parse_spec
from launch_worker.queues.queue import QueueConfig, parse_settings
from launch_worker.runners.container.config import EngineFacts, host_config


def merged(queue: dict[str, Any] | None = None, /, **submitted: Any) -> ContainerPlan:
    return plan(image="img:1", submitted=submitted, queue=queue or {})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pull", "always"),
        ("entrypoint", ["python", "-u"]),
        ("network", "none"),
        ("mounts", ["data:/data:ro"]),
        ("tmpfs", ["/scratch"]),
        ("user", "1000:1000"),
        ("read_only", True),
        ("init", False),
        ("pids_limit", 100),
        ("shm_size", "2G"),
    ],
)
def test_each_allowed_option_passes_by_itself(name: str, value: Any) -> None:
    """W23."""
    assert getattr(merged({"allow_volumes": ["data"]}, **{name: value}), name) not in (
        None,
        getattr(ContainerPlan("img:1"), name),
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("privileged", True),
        ("cap_add", ["SYS_ADMIN"]),
        ("devices", ["/dev/kmsg"]),
        ("security_opt", ["seccomp=unconfined"]),
        ("ipc_mode", "host"),
        ("pid_mode", "host"),
        ("userns_mode", "host"),
        ("runtime", "other"),
        ("extra_hosts", ["db:10.0.0.1"]),
        ("dns", ["10.0.0.1"]),
        ("group_add", ["docker"]),
        ("env", {"A": "b"}),
        ("registry_auth", "team-a"),
        ("allow_mounts", ["/data"]),
        ("allow_volumes", ["*"]),
        ("allow_images", ["*"]),
    ],
)
def test_what_reaches_the_host_is_refused_from_a_submitter_and_taken_from_a_queue(name: str, value: Any) -> None:
    """W23."""
    with pytest.raises(InputError, match="only the queue's configuration may set it"):
        merged(**{name: value})
    assert getattr(merged({name: value}), name)


@pytest.mark.parametrize("network", ["host", "container:other", "my-net", ""])
def test_a_submitter_may_not_join_the_hosts_or_anothers_network(network: str) -> None:
    with pytest.raises(InputError, match="one of: bridge, none"):
        check_submitted({"network": network})


@pytest.mark.parametrize(
    "mount",
    ["/var/run/docker.sock:/x", "/run/podman/podman.sock:/x", "/run/../run/containerd/containerd.sock:/x"],
)
def test_the_engines_socket_is_not_mounted_not_even_for_a_queue(mount: str) -> None:
    with pytest.raises(InputError, match="the container engine itself"):
        check_queue({"mounts": [mount]})


@pytest.mark.parametrize(
    "mount",
    [
        *("", "/a", "/a:b", "/a:/", "/a://", "/a:/b:rx", "/a:/b:ro:x", "../a:/b", "a b:/c", "-v:/c"),
        *("/a:/proc/x", "/a:/dev", "/a:/launch", "/a:/launch/code", "/a:/x/../sys/kernel", "v:/c\x00"),
    ],
)
def test_mounts_that_make_no_sense_are_refused(mount: str) -> None:
    with pytest.raises(InputError):
        parse_mount(mount)


def test_a_folder_is_the_queues_to_give_and_only_the_very_one_that_it_names() -> None:
    """Not one below it: a job that may write there could swap it for a link before the engine looks."""
    queue = {"allow_mounts": ["/data/", "/models:ro"]}
    assert merged(queue, mounts=["/data:/x"]).mounts == (Mount("/data", "/x"),)
    assert merged(queue, mounts=["/models:/x:rw"]).mounts == (Mount("/models", "/x", read_only=True),)
    for source in ("/data/sub", "/data/../etc", "/data-2", "/", "/models/x"):
        with pytest.raises(InputError, match="may not be mounted; this queue allows: /data, /models"):
            merged(queue, mounts=[f"{source}:/x"])
    with pytest.raises(InputError, match="this queue allows none"):
        merged(mounts=["/data:/x"])


@pytest.mark.parametrize("folders", [["/data", "/data/sub"], ["/"], ["data"], ["/a,b"], ["/data:rw"], "/data"])
def test_folders_that_could_lead_elsewhere_are_no_setting(folders: Any) -> None:
    with pytest.raises(InputError, match="none inside another"):
        check_queue({"allow_mounts": folders})


def test_a_queue_may_bound_the_volumes() -> None:
    queue = {"allow_volumes": ["team-*"]}
    assert merged(queue, mounts=["team-a:/x"]).mounts
    with pytest.raises(InputError, match="volume 'db-data' is not allowed in this queue: it allows: team-"):
        merged(queue, mounts=["db-data:/x"])
    with pytest.raises(InputError, match="volume 'db-data' is not allowed in this queue: it allows none"):
        merged(mounts=["db-data:/x"])


def test_a_container_has_a_bounded_number_of_processes_and_a_bounded_memory() -> None:
    engine = EngineFacts.of({"MemTotal": 100 << 30, "Plugins": {"Log": ["json-file", "local"]}})
    made = host_config(merged(), (), engine)
    assert (made["pids_limit"], made["mem_limit"], made["memswap_limit"]) == (4096, 90 << 30, 90 << 30)
    assert host_config(merged({"pids_limit": 9000}), (), engine)["pids_limit"] == 9000
    with pytest.raises(InputError, match="4,096 processes at most"):
        merged(pids_limit=4097)
    unlimited = host_config(
        merged(), (), EngineFacts.of({"MemTotal": 1 << 30, "MemoryLimit": False, "PidsLimit": False})
    )
    assert not {"pids_limit", "mem_limit"} & set(unlimited)


@pytest.mark.parametrize(
    "mount", ["/data:/t,source=/etc", "vol:/x,volume-opt=device=/etc", '/data:/a"b', "/a,b:/x", "/a b:/x"]
)
def test_nothing_of_a_mount_can_be_taken_for_an_option(mount: str) -> None:
    """Podman joins mounts into text and parses that."""
    with pytest.raises(InputError):
        parse_mount(mount)
    with pytest.raises(InputError):
        check_submitted({"tmpfs": ["/x,exec"]})


def test_the_submitters_word_wins_over_the_queues_but_not_over_what_the_queue_fixes() -> None:
    queue = {"image": "base:1", "memory": "1G", "shm_size": "1M", "mounts": ["a1:/x", "b1:/y"], "network": "none"}
    queue |= {"allow_volumes": ["c*"]}
    both = plan(image="own:1", submitted={"shm_size": "2M", "mounts": ["c1:/x"]}, queue=queue, memory=64 << 20)
    assert (both.image, both.memory, both.shm_size) == ("own:1", 64 << 20, 2 << 20)
    assert both.mounts == (Mount("c1", "/x"), Mount("b1", "/y"))
    assert plan(image="", submitted={}, queue=queue).image == "base:1"
    with pytest.raises(InputError, match="network is 'none' for every run of this queue"):
        plan(image="", submitted={"network": "bridge"}, queue=queue)


def test_a_queue_may_bound_the_images() -> None:
    queue = {"allow_images": ["registry.local/team/*", "sim:*"]}
    assert plan(image="sim:3", submitted={}, queue=queue).image == "sim:3"
    with pytest.raises(InputError, match=r"image 'other:1' is not allowed in this queue; it allows: registry.local"):
        plan(image="other:1", submitted={}, queue=queue)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"entry_point": "x"}, "'entry_point' is not a container option; there are: entrypoint, "),
        ({"entrypoint": []}, "it is a program"),
        ({"entrypoint": ["", "x"]}, "it is a program"),
        ({"user": "root; rm"}, "it is a user"),
        ({"read_only": "yes"}, "it is true or false"),
        ({"pids_limit": 0}, "whole number from 1"),
        ({"pids_limit": True}, "whole number from 1"),
        ({"shm_size": "much"}, "is not a size"),
        ({"pull": "sometimes"}, "one of: missing, always, never"),
        ({"mounts": "a:/b"}, "it is a list"),
        ({"tmpfs": ["/proc"]}, "not to be mounted over"),
    ],
)
def test_bad_options_are_one_sentence(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        RunSpec(command=("true",), image="img:1", container=options)


@pytest.mark.parametrize("image", ["-v", "a b", "img;rm", "", "ä", "x" * 300, "../x\n"])
def test_bad_image_names_are_refused_before_anything_is_written(image: str) -> None:
    if not image:
        with pytest.raises(InputError, match="the command is empty"):
            RunSpec(command=(), image=image)
        return
    with pytest.raises(InputError, match="is not the name of an image"):
        RunSpec(command=(), image=image)


@pytest.mark.parametrize(("memory", "fits"), [(6 << 20, True), (1, False), (0, False), (1 << 60, False)])
def test_memory_is_what_an_engine_accepts(memory: int, fits: bool) -> None:
    if fits:
        assert RunSpec(command=("true",), image="img:1", memory=memory).memory == memory
    else:
        with pytest.raises(InputError, match="memory"):
            RunSpec(command=("true",), image="img:1", memory=memory)


@pytest.mark.parametrize("cpus", [0, -1, 0.001, float("nan"), 1e9, True])
def test_cpus_are_a_number_of_cores(cpus: float) -> None:
    with pytest.raises(InputError, match="cpus"):
        RunSpec(command=("true",), image="img:1", cpus=cpus)


def test_an_image_needs_no_command_and_names_the_run() -> None:
    spec = RunSpec(command=(), image="registry.local:5000/team/train:1.2")
    assert spec.name == "train:1.2"
    assert parse_spec(spec.to_json()) == spec


# -- queues ------------------------------------------------------------------------------------------------------------


def test_without_a_configuration_the_run_decides_whether_it_is_a_container() -> None:
    assert QueueConfig().container_plan(RunSpec(command=("true",))) is None
    assert QueueConfig().container_plan(RunSpec(command=("true",), image="a:1")) == ContainerPlan("a:1")


@pytest.mark.parametrize(
    ("config", "spec", "said"),
    [
        (QueueConfig("process"), {"image": "a:1"}, "runs processes; --image would need a container queue"),
        (QueueConfig("process"), {"container": {"init": True}}, "runs processes; container option 'init' would"),
        (QueueConfig(), {"container": {"network": "none"}}, "container option 'network' can be kept for containers"),
        (QueueConfig("container"), {}, "names no image; submit it with --image IMAGE"),
    ],
)
def test_a_run_that_does_not_fit_its_queue_is_refused(config: QueueConfig, spec: dict[str, Any], said: str) -> None:
    """W14."""
    with pytest.raises(InputError, match=said):
        config.container_plan(RunSpec(command=("true",), **spec))


@pytest.mark.parametrize("resource", ["", "process"])
def test_a_process_may_say_what_it_needs_of_its_worker(resource: str) -> None:
    spec = RunSpec(command=("true",), memory=64 << 20, cpus=2.0, gpus=1)
    assert QueueConfig(resource).container_plan(spec) is None


@pytest.mark.parametrize(
    "config",
    [
        {"resource": "vm"},
        {"container": {"privilegd": True}},
        {"container": {"memory": "1"}},
        {"description": "x" * 2000},
    ],
)
def test_bad_configurations_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        QueueConfig(**config)


def test_a_configuration_survives_its_text_and_a_damaged_one_is_said() -> None:
    config = QueueConfig("container", {"image": "a:1", "allow_mounts": ["/data"]}, "for sims")
    assert QueueConfig.from_json(config.to_json()) == config
    assert QueueConfig.from_json("") == QueueConfig()
    for text in ("{", "[]", '{"resource": 1}', '{"colour": "red"}', '{"container": []}'):
        with pytest.raises(InputError):
            QueueConfig.from_json(text)


def test_settings_change_one_by_one_and_empty_takes_one_away() -> None:
    before = QueueConfig("container", {"image": "a:1", "privileged": True})
    after = before.changed(
        container=parse_settings({"privileged": "", "cpus": "2", "network": "none"}), description="new", resource=None
    )
    assert after == QueueConfig("container", {"image": "a:1", "cpus": 2, "network": "none"}, "new")
