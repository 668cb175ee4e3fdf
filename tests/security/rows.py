"""All attacks that were thought of, by area: what is tried, what becomes of it, and which tests try it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import pytest


class Verdict(Enum):
    """What becomes of an attack."""

    REFUSED = "refused"
    HARMLESS = "harmless: nothing but what belongs to the attacker suffers"
    ALLOWED = "allowed, and docs/security.md says to whom"
    CONFINED = "held where a queue confines its jobs: docs/security.md says by which layer"
    NOT_HELD = "not held: docs/security.md says why, and the test is expected to fail"


@dataclass(frozen=True)
class Row:
    tried: str
    verdict: Verdict
    #: Each `path::test` below tests/.
    tests: tuple[str, ...] = ()
    #: Why it is not held: a sentence of docs/security.md.
    reason: str = ""


REFUSED, HARMLESS, ALLOWED = Verdict.REFUSED, Verdict.HARMLESS, Verdict.ALLOWED
CONFINED = Verdict.CONFINED


def _not_held(tried: str, reason: str, *tests: str) -> Row:
    return Row(tried, Verdict.NOT_HELD, tests, reason)


def not_held(name: str) -> pytest.MarkDecorator:
    """Mark a test of a row that is not held."""
    row = ROWS[name]
    assert row.verdict is Verdict.NOT_HELD
    # Only of the attack itself: a neighbour that suffers is a failure all the same.
    return pytest.mark.xfail(strict=True, raises=pytest.fail.Exception, reason=row.reason)


ELEMENTS = "security/test_queue_elements.py::"
ASIDE = ELEMENTS + "test_what_is_not_ours_is_refused_and_kept_aside"
CHANGED = ELEMENTS + "test_an_element_with_anything_changed_in_it_ends_nothing"
VALUES = "security/test_hostile_values.py::"
MESSAGES = "security/test_messages.py::"
USERS = "security/test_redis_users.py::"
DENIED = USERS + "test_what_a_user_of_redis_may_not_do_is_refused"
TRUSTED = USERS + "test_a_producer_cannot_change_what_is_anothers"
JOB = "security/test_job.py::test_what_a_job_can_do_is_what_its_layer_leaves_it"
DAMAGE = "redis/store/test_damage.py::"
ANY_RECORD = DAMAGE + "test_whatever_a_record_says_no_slot_is_lost_and_nothing_is_made_outside_the_work_folder"
SIGNED = "security/test_signed_runs.py::test_what_was_not_signed_so_is_refused_with_a_reason_and_never_begins"
SECRETS = "security/test_secrets.py::"
SEALED = SECRETS + "test_a_secret_is_seen_by_its_job_alone"
BOUND = SECRETS + "test_a_sealed_secret_opens_for_no_other_command_and_no_other_run"
SHIPPED = "deploy/test_server_acl.py::test_nobody_else_can_log_in"
OPTIONS = "unit/model/test_container_options.py::"
ARCHIVE = "unit/code/test_archive.py::"
CONFINED_JOBS = "runners/process/test_confined.py::"
GIT = "code/test_git.py::"
WHEELS = "security/test_wheels_only.py::"
STARTS = "security/test_confined_starts.py::"
PLANTED = "security/test_planted_files.py::"
HELD = "runners/process/test_held_guard.py::"
TERMINAL = "system/test_terminal.py::"
SITE = "security/test_lending.py::"
ENVIRONMENT = "unit/attempt/test_environment.py::"
PARTS = "system/test_server_parts.py::"
PRODUCERS = "Who may write runs to Redis may write anybody's"

ROWS: dict[str, Row] = {
    # -- A: outside, network, TLS, probes
    "A1": Row(
        "a Redis without a password on an address that is not loopback",
        REFUSED,
        ("system/test_doctor.py::test_a_redis_that_strangers_can_write_to_is_an_error_and_no_part_starts_on_it",),
    ),
    "A2": Row(
        "no login, on the shipped users",
        REFUSED,
        ("deploy/test_acl.py::test_nobody_can_look_without_a_login_and_no_user_has_a_password_as_shipped",),
    ),
    "A3": Row(
        "a certificate that nobody vouches for",
        REFUSED,
        ("redis/store/test_causes.py::test_the_cause_and_what_to_do_are_said",),
    ),
    "A4": Row(
        "a certificate of another host",
        REFUSED,
        ("redis/store/test_causes.py::test_the_cause_and_what_to_do_are_said",),
    ),
    "A5": Row(
        "a URL that switches the check of certificates off",
        REFUSED,
        ("unit/test_redis_url.py::test_a_certificate_that_nobody_looks_at_is_no_way_to_a_redis_elsewhere",),
    ),
    "A6": Row(
        "paths, methods, sizes and bytes at the port of the probes",
        REFUSED,
        ("security/test_outside.py::test_no_request_gets_more_from_the_probes_than_a_refusal",),
    ),
    "A7": Row(
        "a hundred half-sent requests at the port of the probes",
        HARMLESS,
        ("security/test_outside.py::test_hundreds_of_unfinished_requests_hold_up_nothing",),
    ),
    "A8": Row(
        "a worker that consumes nothing any more and calls itself healthy",
        REFUSED,
        (
            "unit/agent/test_probes.py::test_a_worker_whose_loop_stands_still_is_neither_alive_nor_healthy_and_its_file_grows_old",
            "system/test_broken_loop.py::test_an_error_that_ends_celerys_loop_counts_as_the_workers_death",
        ),
    ),
    # -- B: elements of a queue's list
    "B1": Row("typed maps of kombu anywhere in an element", REFUSED, (ASIDE, CHANGED)),
    "B2": Row("times in an element's headers that are none", HARMLESS, (CHANGED,)),
    "B4": Row("a run's id with a lone surrogate", REFUSED, (ASIDE,)),
    "B5": Row("Celery's own tasks", REFUSED, (ASIDE,)),
    "B6": Row("callbacks, chains and chords with options of their own", REFUSED, (ASIDE,)),
    "B7": Row("a callback into Celery's remote control", REFUSED, (ASIDE,)),
    "B8": Row(
        "thousands of elements for the year 2099", HARMLESS, (MESSAGES + "test_times_in_an_element_are_not_heard",)
    ),
    "B10": Row("an element of megabytes", REFUSED, (ASIDE,)),
    "B11": Row("an element that is nested deeply", REFUSED, (ASIDE,)),
    "B12": Row("a pickle as element", REFUSED, (ASIDE,)),
    "B13": Row("a compressed body", REFUSED, (ASIDE,)),
    "B14": Row("numbers, encodings and bytes that are none", REFUSED, (ASIDE, CHANGED)),
    "B15": Row("an unknown encoding of the content", HARMLESS, (CHANGED,)),
    "B16": Row(
        "each part of an element with each of many values",
        HARMLESS,
        (CHANGED, ELEMENTS + "test_no_json_tree_in_any_place_of_an_element_ends_anything"),
    ),
    "B17": Row("a run's id with escapes, or very long", REFUSED, (ASIDE,)),
    "B18": Row("a task named with escapes", REFUSED, (ASIDE,)),
    "B19": Row(
        "items of runs that are over, wait or are known already",
        REFUSED,
        (
            MESSAGES + "test_an_item_that_comes_again_starts_nothing",
            "redis/store/test_arrows.py::test_a_claim_with_an_old_dispatch_number_is_refused",
        ),
    ),
    "B20": Row(
        "garbage on the channels of workers and clients",
        HARMLESS,
        (
            "system/test_looking_after.py::test_what_is_published_to_a_workers_channels_and_is_no_word_of_ours_costs_one_line",
        ),
    ),
    "B21": Row(
        "a forged order to end a run",
        ALLOWED,
        (MESSAGES + "test_a_forged_order_ends_a_run_only_for_who_may_cancel_it_anyway",),
    ),
    "B23": Row(
        "a pickle in Celery's own channels", REFUSED, (MESSAGES + "test_a_pickle_in_celerys_own_channels_is_not_read",)
    ),
    # -- C: records, and Redis itself
    "C1": Row(
        "an item copied into another queue's list",
        REFUSED,
        (DAMAGE + "test_a_worker_executes_only_runs_of_queues_that_it_consumes",),
    ),
    "C2": Row(
        "an item copied into a worker's own list",
        REFUSED,
        (
            DAMAGE + "test_a_worker_executes_only_runs_of_queues_that_it_consumes",
            "deploy/test_acl.py::test_what_is_not_a_users_work_is_refused",
        ),
    ),
    "C3": Row("a record whose id leads out of the work folder", REFUSED, (ANY_RECORD,)),
    "C5": Row(
        "a record with 200 million attempts",
        HARMLESS,
        (
            DAMAGE + "test_an_attempt_number_of_two_hundred_million_keeps_redis_from_nobody",
            DAMAGE + "test_hostile_counts_keep_redis_from_nobody",
            "redis/store/test_bounds.py::test_a_call_does_a_bounded_number_of_commands_however_much_there_is",
            "redis/store/test_bounds.py::test_no_number_in_a_record_is_what_a_loop_counts_to",
        ),
    ),
    "C6": Row(
        "a record with deeply nested parts", HARMLESS, (TERMINAL + "test_a_deeply_nested_record_hides_no_other_run",)
    ),
    "C7": _not_held("another's waiting run, rewritten", PRODUCERS, TRUSTED, SHIPPED, SIGNED, BOUND),
    "C8": _not_held("values of another's -e, read", PRODUCERS, TRUSTED, SHIPPED, SEALED),
    "C9": _not_held("another's run, cancelled", PRODUCERS, TRUSTED, SHIPPED),
    "C10": _not_held("another's running run, called finished", PRODUCERS, TRUSTED, SHIPPED),
    "C11": _not_held("another's running run, superseded by its token", PRODUCERS, TRUSTED, SHIPPED),
    "C12": _not_held(
        "the record of a running run, deleted",
        PRODUCERS,
        TRUSTED,
        USERS + "test_a_record_that_is_gone_while_its_job_runs_comes_back",
    ),
    "C13": _not_held("a lease that is made to be over while its job runs", PRODUCERS, TRUSTED, SHIPPED),
    "C14": Row("each field of a record with each of many values", HARMLESS, (ANY_RECORD,)),
    "C15": Row(
        "the worker's own variables by -e",
        REFUSED,
        ("unit/model/test_spec.py::test_the_workers_own_variables_are_refused",),
    ),
    "C16": Row(
        "options of a container in a record that a submitter may not have",
        REFUSED,
        ("system/test_containers.py::test_a_record_that_was_tampered_with_gets_nothing_that_reaches_the_host",),
    ),
    "C17": Row(
        "a run under an id that exists",
        REFUSED,
        ("redis/store/test_arrows.py::test_creating_again_with_the_same_id_changes_nothing",),
    ),
    "C18": Row(
        "hostile schedules and sweeps beside good ones",
        HARMLESS,
        (VALUES + "test_hostile_schedules_and_sweeps_hold_up_no_good_one",),
    ),
    "C19": Row(
        "a pattern that takes for ever",
        HARMLESS,
        (
            "system/test_hostile.py::test_a_pattern_that_is_made_to_hold_up_its_worker_holds_up_nobody",
            "security/test_parsing.py::test_values_that_take_long_to_check_are_given_up",
        ),
    ),
    "C20": Row("a script that never ends", REFUSED, (DENIED,)),
    "C21": Row("a script that takes all memory", REFUSED, (DENIED,)),
    "C23": Row("a queue's long name with escapes", HARMLESS, (VALUES + "test_a_queue_of_any_name_is_shown_as_text",)),
    "C24": _not_held("keys without an end", PRODUCERS, TRUSTED, SHIPPED),
    "C25": Row("another database of the same server", REFUSED, (DENIED,)),
    "C26": Row("administration of Redis, settings of queues, orders to workers", REFUSED, (DENIED,)),
    "C27": Row(
        "20,000 runs of one person before another's",
        ALLOWED,
        (
            "redis/store/test_allowances.py::test_more_runs_than_may_wait_are_refused",
            "redis/store/test_allowances.py::test_each_user_without_an_allowance_has_that_of_every_user",
            "redis/server/test_runs.py::test_priority_critical_is_for_operators_where_no_admin_says_who_may_give_it",
        ),
    ),
    "C28": Row("the worker's login by --env-from", REFUSED, (SITE + "test_a_job_gets_no_login_of_its_worker",)),
    "C29": Row(
        "any variable of the worker by --env-from",
        REFUSED,
        (
            SITE + "test_a_job_gets_no_login_of_its_worker",
            ENVIRONMENT + "test_the_workers_own_logins_are_not_lent_but_where_its_admin_names_them",
            ENVIRONMENT + "test_a_worker_lends_what_its_admin_names",
            "unit/queues/test_queue.py::test_a_queue_says_which_variables_of_the_worker_its_runs_may_ask_for",
        ),
    ),
    "C30": Row(
        "thousands of schedules and keys due at once",
        HARMLESS,
        (DAMAGE + "test_hostile_counts_keep_redis_from_nobody",),
    ),
    "C31": Row(
        "macros in macros, attributes, formats, growth",
        REFUSED,
        (
            "unit/model/test_macros.py::test_what_is_filled_in_is_not_filled_again",
            "unit/model/test_macros.py::test_what_is_filled_in_is_checked_as_what_a_person_submits",
            "unit/model/test_macros.py::test_a_worker_variable_is_reached_only_where_the_queue_allows_it_by_name",
        ),
    ),
    "C32": Row(
        "variables of a job that steer git and the worker",
        HARMLESS,
        (VALUES + "test_variables_of_a_job_steer_neither_git_nor_the_worker",),
    ),
    "C33": Row("writing and looking into the server as viewer", REFUSED, (DENIED,)),
    "C34": _not_held("values that commands mask, read as viewer", PRODUCERS, TRUSTED, SHIPPED, SEALED),
    "C36": Row("administration as a worker", REFUSED, (DENIED,)),
    "C37": Row(
        "filters and recurrences that are made to hold up who reads them",
        REFUSED,
        (
            "unit/api/test_filters.py::test_a_filter_that_is_nested_too_deeply_is_refused",
            "unit/api/test_filters.py::test_a_pattern_that_hangs_other_engines_is_searched_in_bounded_time",
            "security/test_parsing.py::test_a_pattern_that_stands_for_thousands_of_states_is_refused",
            "security/test_parsing.py::test_a_pattern_that_takes_long_on_all_runs_is_given_up",
            "unit/maintenance/test_schedules.py::test_what_is_no_cron_is_refused",
        ),
    ),
    "C38": Row("many ids at once", HARMLESS, ("unit/test_ids.py::test_ten_thousand_ids_of_one_millisecond_differ",)),
    # -- D: git and uploads
    "D1": Row(
        "URLs of other protocols, with options, passwords, paths",
        REFUSED,
        (
            "unit/model/test_spec.py::test_a_hostile_git_url_is_refused",
            "unit/model/test_spec.py::test_a_hostile_git_url_in_a_record_is_refused_too",
            "unit/model/test_git_url.py::test_no_text_at_all_is_more_than_refused",
        ),
    ),
    "D2": Row(
        "a URL of the worker's own network",
        ALLOWED,
        (
            "unit/queues/test_queue.py::test_a_queue_says_from_where_code_may_come",
            "code/test_git.py::test_a_submodule_comes_only_from_where_the_queue_allows",
        ),
    ),
    "D3": Row(
        "refs that are options or expressions",
        REFUSED,
        ("unit/model/test_git_url.py::test_a_ref_that_git_would_not_take_is_refused",),
    ),
    "D4": Row(
        "entries of a tree named as git's own folder",
        REFUSED,
        (GIT + "test_an_entry_of_a_tree_that_stands_for_git_or_a_folder_above_is_refused",),
    ),
    "D5": Row(
        "hooks, monitors, configuration in a repository", HARMLESS, (GIT + "test_hooks_and_monitors_have_no_effect",)
    ),
    "D6": Row(
        "a working directory that leads out through a link",
        REFUSED,
        ("system/test_code.py::test_what_cannot_be_fetched_fails_in_phase_build_and_is_said",),
    ),
    "D7": Row(
        "submodules, redirects, hangs, certificates",
        REFUSED,
        (
            GIT + "test_a_submodule_of_a_forbidden_kind_is_refused_before_git_runs",
            GIT + "test_a_submodule_cannot_leave_the_folder_through_a_link",
            GIT + "test_a_redirect_to_plain_http_is_not_followed",
            GIT + "test_a_server_that_hangs_ends_at_the_start_timeout",
            GIT + "test_a_certificate_that_nobody_vouches_for_is_said",
        ),
    ),
    "D8": Row(
        "a tree of 100 million entries in 244 kB",
        REFUSED,
        ("system/test_hostile.py::test_a_repository_that_is_made_to_take_all_memory_holds_up_nobody",),
    ),
    "D9": Row(
        "a pack that is small and a checkout that is not",
        REFUSED,
        (
            "code/test_bounds.py::test_a_commit_with_too_many_bytes_is_refused",
            "code/test_bounds.py::test_a_pack_with_too_many_bytes_is_cut_off_while_it_comes",
        ),
    ),
    "D10": Row(
        "a job that changes the shared cache of repositories",
        HARMLESS,
        (JOB, GIT + "test_what_a_job_configures_in_the_cache_leads_no_later_run_elsewhere"),
    ),
    "D11": Row(
        "an archive with paths, links, devices and sizes of every kind",
        REFUSED,
        (ARCHIVE + "test_a_hostile_archive_is_refused_and_writes_nothing_outside",),
    ),
    "D12": Row(
        "an archive of very many entries, or of bytes that grow",
        REFUSED,
        (ARCHIVE + "test_many_entries_are_noticed", ARCHIVE + "test_a_bomb_is_noticed_before_it_has_gone_off"),
    ),
    "D13": Row(
        "other content under a hash, and what is no archive",
        REFUSED,
        (
            "redis/store/test_uploads.py::test_another_content_is_refused_and_makes_room_for_the_right_one",
            ARCHIVE + "test_what_is_no_archive_is_said",
        ),
    ),
    "D15": Row(
        "special bits of files in an archive", HARMLESS, (ARCHIVE + "test_special_bits_of_an_archive_are_taken_off",)
    ),
    "D16": Row(
        "a description of 200,000 digits in an archive",
        REFUSED,
        ("system/test_hostile.py::test_an_upload_that_is_made_to_hold_up_its_worker_holds_up_nobody",),
    ),
    # -- E: containers
    "E1": Row(
        "what a container has",
        HARMLESS,
        (
            "runners/container/test_container.py::test_root_in_a_container_has_no_capabilities",
            "system/test_containers.py::test_the_brokers_url_is_not_in_a_container",
        ),
    ),
    "E2": Row(
        "leaving a container by the kernel's usual ways",
        REFUSED,
        ("security/test_containers.py::test_no_usual_way_leads_out_of_a_container",),
    ),
    "E3": Row(
        "a user in a container who is root, or none",
        HARMLESS,
        (
            OPTIONS + "test_bad_options_are_one_sentence",
            "runners/container/test_container.py::test_root_in_a_container_has_no_capabilities",
        ),
    ),
    "E4": Row(
        "mounts, networks and sockets of the host",
        REFUSED,
        (
            OPTIONS + "test_what_reaches_the_host_is_refused_from_a_submitter_and_taken_from_a_queue",
            OPTIONS + "test_a_submitter_may_not_join_the_hosts_or_anothers_network",
            OPTIONS + "test_the_engines_socket_is_not_mounted_not_even_for_a_queue",
            OPTIONS + "test_mounts_that_make_no_sense_are_refused",
            OPTIONS + "test_nothing_of_a_mount_can_be_taken_for_an_option",
        ),
    ),
    "E5": Row(
        "images named as options", REFUSED, (OPTIONS + "test_bad_image_names_are_refused_before_anything_is_written",)
    ),
    "E6": Row("images beside those that a queue allows", REFUSED, (OPTIONS + "test_a_queue_may_bound_the_images",)),
    "E7": Row("another service's volume", REFUSED, (OPTIONS + "test_a_queue_may_bound_the_volumes",)),
    "E8": Row(
        "links, pipes and sizes in the folder by which a container talks",
        HARMLESS,
        (
            "system/test_container_talk.py::test_garbage_links_and_many_lines_of_a_container_are_bounded",
            "unit/runners/test_container_talk.py::test_a_file_of_terabytes_is_not_asked_for",
            "unit/runners/test_container_talk.py::test_a_file_that_grew_to_terabytes_since_it_was_looked_at_is_not_copied",
        ),
    ),
    "E9": Row(
        "values of --env-from by who may use the engine",
        ALLOWED,
        ("system/test_containers.py::test_secrets_are_on_no_command_line_and_in_no_other_runs_container",),
    ),
    "E10": Row(
        "a foreign container with the labels of a running attempt",
        HARMLESS,
        ("security/test_containers.py::test_a_container_with_a_runs_labels_ends_with_that_run_and_disturbs_no_other",),
    ),
    "E11": Row(
        "no limit of processes and memory",
        REFUSED,
        (OPTIONS + "test_a_container_has_a_bounded_number_of_processes_and_a_bounded_memory",),
    ),
    "E12": Row(
        "hundreds of megabytes of output of a container",
        HARMLESS,
        ("system/test_containers.py::test_thirty_megabytes_of_output_are_bounded_and_the_newest_is_kept",),
    ),
    # -- F: a job, as a process of the worker's user
    "F1": Row("the environment of worker and guard, read", REFUSED, (JOB,)),
    "F2": Row("the memory and open files of worker and guard", REFUSED, (JOB,)),
    "F3": Row("a neighbour's environment, memory and output, read; its talk, written", CONFINED, (JOB,)),
    "F6": Row("a neighbour's end, forged on disk", CONFINED, (JOB,)),
    "F7": Row(
        "a guard that is killed",
        HARMLESS,
        ("system/test_failures.py::test_the_guard_killed_jobs_go_on_and_their_ends_are_true", JOB),
    ),
    "F8": Row(
        "a process that hides from the end of its run",
        CONFINED,
        (JOB, CONFINED_JOBS + "test_a_process_that_hides_ends_with_its_job_and_the_group_is_deleted"),
    ),
    "F9": Row(
        "a process that hides, while guard and worker are killed",
        CONFINED,
        (JOB, CONFINED_JOBS + "test_what_a_dead_guard_left_in_a_group_is_ended_by_the_next_worker"),
    ),
    "F10": Row(
        "hundreds of processes that leave their session and environment",
        HARMLESS,
        (
            "runners/process/test_tree.py::test_a_daemon_without_its_environment_is_a_member_when_it_was_known",
            "runners/process/test_chains.py::test_a_chain_ends_with_its_job",
        ),
    ),
    "F11": Row(
        "a worker that is stopped",
        HARMLESS,
        ("runners/process/test_pulse.py::test_a_hung_worker_is_killed_and_its_job_ended", JOB),
    ),
    "F12": Row(
        "the guard's door, knocked at by a job",
        REFUSED,
        (JOB, "runners/process/test_handover.py::test_a_job_that_waits_at_the_guards_door_does_not_become_its_worker"),
    ),
    "F13": Row(
        "a job that wears another run's marks",
        HARMLESS,
        (VALUES + "test_a_process_with_another_runs_marks_ends_and_that_run_is_not_disturbed",),
    ),
    "F14": Row(
        "links, pipes, folders and sizes in place of what a worker reads",
        HARMLESS,
        (
            "unit/attempt/test_talk.py::test_what_is_put_in_the_files_place_blocks_and_reaches_nothing",
            "runners/process/test_output.py::test_what_a_job_puts_in_its_outputs_place_is_not_written_to",
        ),
    ),
    "F15": Row(
        "links in place of what a worker writes",
        REFUSED,
        ("unit/attempt/test_talk.py::test_what_the_worker_writes_follows_no_link_that_a_job_has_put_there",),
    ),
    "F16": Row(
        "rows, keys, lines, depths and numbers without measure",
        HARMLESS,
        (
            "system/test_current.py::test_garbage_and_a_hundred_megabytes_of_lines_are_bounded",
            "unit/attempt/test_talk.py::test_what_a_job_does_to_the_file_again_and_again_is_logged_once",
            "unit/attempt/test_talk.py::test_a_flood_of_words_is_kept_by_one_file_a_piece",
            "unit/attempt/test_talk.py::test_a_flood_is_read_in_little_time_its_newest_rows_are_kept_and_no_word_is_lost",
            "unit/attempt/test_talk.py::test_a_line_that_is_none_of_the_protocol_does_nothing_and_the_next_is_heard",
        ),
    ),
    "F17": Row(
        "escapes and HTML in what a job says",
        HARMLESS,
        (VALUES + "test_what_a_job_says_of_itself_is_one_line_of_text",),
    ),
    "F18": Row("devices, memory, shared folders, processes without a limit", CONFINED, (JOB,)),
    "F19": Row(
        "a worker that root has started",
        REFUSED,
        ("system/test_confinement.py::test_a_worker_of_root_starts_no_job_as_root_before_somebody_says_so",),
    ),
    "F20": Row(
        "variables with which a loader loads a job's library, outside of its sandbox too",
        CONFINED,
        (
            JOB,
            "runners/process/test_sandbox.py::test_its_variables_reach_its_program_and_nothing_outside_of_the_sandbox",
        ),
    ),
    "F21": Row(
        "files of a run's Python environment that have uv build, execute or write something for a confined job",
        CONFINED,
        (
            WHEELS + "test_a_file_by_which_uv_would_execute_or_write_something_is_refused",
            WHEELS + "test_no_source_is_built",
            WHEELS + "test_what_a_wheel_has_python_execute_at_its_start_is_not_executed_and_its_modules_are_compiled",
        ),
    ),
    "F22": Row(
        "a key of the kernel's that the worker's login has left in its session",
        CONFINED,
        (STARTS + "test_a_key_of_the_workers_login_is_not_a_confined_jobs",),
    ),
    "F23": Row(
        "options for bubblewrap in a variable, a pipe in the place of a program",
        REFUSED,
        (
            STARTS + "test_a_variable_brings_bubblewrap_no_option",
            STARTS + "test_a_pipe_for_a_program_holds_up_no_thread_of_the_worker",
        ),
    ),
    "F24": Row(
        "a folder that is hidden, moved away by the one above it, or made while a job runs",
        REFUSED,
        (
            STARTS + "test_no_folder_that_jobs_may_write_to_leads_to_what_is_hidden",
            STARTS + "test_what_is_hidden_is_made_before_a_job_could_see_it_come",
        ),
    ),
    "F25": Row(
        "a start that another process of the same account stops, to hold up the guard",
        HARMLESS,
        (CONFINED_JOBS + "test_a_start_that_another_process_stops_holds_up_no_guard",),
    ),
    "F26": Row(
        "a start that a lease on the program's file holds up, and a guard that is stopped",
        HARMLESS,
        (
            HELD + "test_a_start_that_hangs_holds_up_no_other_job",
            HELD + "test_a_start_that_hangs_can_be_stopped",
            HELD + "test_a_guard_that_somebody_has_stopped_is_replaced",
        ),
    ),
    "F27": Row(
        "pipes, links, holes and leases in the place of what a worker keeps of its attempts and of itself",
        HARMLESS,
        (
            PLANTED + "test_in_the_place_of_what_is_kept_of_an_attempt_it_is_read_as_nothing",
            PLANTED + "test_in_the_place_of_what_says_whose_a_folder_is_it_holds_up_no_worker",
            PLANTED + "test_in_the_place_of_the_file_of_exits_it_holds_up_neither_guard_nor_worker",
            PLANTED + "test_a_lock_that_a_job_keeps_on_the_file_of_exits_holds_up_no_worker",
            PLANTED + "test_in_the_place_of_a_kept_archive_it_is_removed_and_the_archive_is_fetched_anew",
            PLANTED + "test_in_the_place_of_a_repositorys_configuration_it_is_replaced",
            PLANTED + "test_in_the_place_of_the_name_of_an_environment_it_holds_up_no_sweep",
            PLANTED + "test_pipes_in_the_place_of_all_that_a_dead_worker_left_hold_up_no_run_of_the_next",
        ),
    ),
    # -- G: another account of the machine
    "G1": Row(
        "another account at the work folder, the guard's socket, processes",
        REFUSED,
        ("security/test_outside.py::test_another_account_of_the_machine_reaches_neither_files_nor_processes",),
    ),
    "G2": Row(
        "a work folder that another account made",
        REFUSED,
        (
            "system/test_foreign_folders.py::test_a_work_folder_that_another_account_may_change_is_refused",
            "system/test_foreign_folders.py::test_a_user_without_home_is_told_so",
            "security/test_folders.py::test_a_worker_uses_no_folder_that_others_could_write_to",
            "security/test_folders.py::test_a_database_that_others_could_write_to_is_not_used_by_who_keeps_people_in_it",
        ),
    ),
    "G3": Row(
        "modules in the folder in which a command is started",
        REFUSED,
        (
            "system/test_foreign_folders.py::test_nothing_is_imported_from_the_folder_that_a_command_is_started_in",
            "system/test_foreign_folders.py::test_celery_settings_are_read_only_if_nobody_else_could_have_written_them",
        ),
    ),
    "G4": Row(
        "passwords in the list of processes",
        REFUSED,
        ("security/test_outside.py::test_no_password_is_on_a_command_line",),
    ),
    # -- H: pages, terminals, secrets
    "H1": Row(
        "HTML in everything that a page shows",
        HARMLESS,
        (
            "browser/test_run.py::test_nothing_of_a_job_or_a_name_becomes_a_part_of_the_page",
            "security/test_words.py::test_no_text_of_others_becomes_a_part_of_a_page_or_a_header",
            "browser/test_log.py::test_a_hostile_log_is_text",
            "redis/server/test_runs_page.py::test_what_comes_from_jobs_is_text",
            "unit/server/test_templates.py::test_data_for_a_script_cannot_end_its_element",
        ),
    ),
    "H2": Row(
        "another site's requests at Celery's page, by a browser that is logged in",
        REFUSED,
        (PARTS + "test_other_sites_frames_and_names_get_nothing_of_it",),
    ),
    "H3": Row(
        "the buttons of Celery's page by who may only look",
        REFUSED,
        (
            "redis/server/test_roles.py::test_celerys_page_is_for_who_sees_all_and_its_buttons_are_by_role",
            PARTS + "test_no_task_is_sent_through_it",
            PARTS + "test_its_buttons_are_ours",
        ),
    ),
    "H4": Row(
        "Celery's page on every address without a login",
        REFUSED,
        (
            PARTS + "test_it_is_behind_the_login_and_has_no_metrics",
            "system/test_celery_commands.py::test_flower_listens_on_loopback_where_it_has_no_login",
        ),
    ),
    "H5": Row(
        "frames, guesses of passwords, a stranger's name in Host",
        REFUSED,
        (
            PARTS + "test_other_sites_frames_and_names_get_nothing_of_it",
            "redis/server/test_login.py::test_who_guesses_is_refused_for_a_while_and_others_are_not",
            "redis/server/test_skeleton.py::test_a_strangers_name_is_refused_on_every_path",
            "redis/server/test_skeleton.py::test_every_answer_forbids_what_no_page_of_ours_needs",
            "redis/server/test_raw.py::test_a_request_whose_end_is_in_doubt_is_refused_and_hides_no_second_one",
            "redis/server/test_raw.py::test_a_connection_without_the_head_of_a_request_is_closed",
        ),
    ),
    "H6": Row(
        "metrics without a login",
        REFUSED,
        (
            "redis/server/test_metrics.py::test_metrics_take_a_login_that_sees_all_projects",
            PARTS + "test_it_is_behind_the_login_and_has_no_metrics",
        ),
    ),
    "H7": Row(
        "escapes as keys of a record, in names of workers, followed on a terminal",
        REFUSED,
        (TERMINAL + "test_no_text_of_others_steers_a_terminal",),
    ),
    "H8": Row(
        "escapes in all that commands print",
        REFUSED,
        (
            TERMINAL + "test_no_text_of_others_steers_a_terminal",
            TERMINAL + "test_no_text_of_others_steers_a_terminal_through_a_server",
            TERMINAL + "test_no_text_of_others_steers_a_full_screen",
        ),
    ),
    "H9": Row(
        "escapes in what is submitted",
        REFUSED,
        (
            "unit/model/test_spec.py::test_a_bad_name_is_refused",
            "unit/model/test_spec.py::test_a_bad_queue_is_refused",
            "unit/model/test_spec.py::test_a_bad_tag_is_refused",
            "unit/model/test_spec.py::test_a_bad_project_is_refused",
        ),
    ),
    "H11": Row(
        "escapes in the output of a job, on a terminal",
        REFUSED,
        (TERMINAL + "test_a_jobs_colours_reach_a_terminal_and_its_control_bytes_are_shown",),
    ),
    "H12": Row(
        "values of --env-from in Redis, in its traffic, files, logs, the list of processes",
        REFUSED,
        (VALUES + "test_a_variable_that_a_worker_lends_is_nowhere_but_in_its_job",),
    ),
    "H13": Row("values of -e in the same places", ALLOWED, (SEALED,)),
    "H14": Row(
        "Redis' password in logs and outputs",
        REFUSED,
        ("system/test_url.py::test_no_part_says_a_part_of_the_password_while_redis_is_away",),
    ),
    "H15": Row(
        "a password that makes its URL a wrong one",
        REFUSED,
        (
            "unit/test_redis_url.py::test_no_part_of_a_password_is_in_any_sentence_about_its_url",
            "security/test_words.py::test_no_part_of_a_password_is_shown_whichever_url_has_it",
            "security/test_words.py::test_no_part_of_a_password_is_in_what_a_store_or_a_database_says",
            "system/test_url.py::test_a_url_that_one_part_could_not_use_is_refused_by_all_in_the_same_sentence",
        ),
    ),
    # -- I: people of a server
    "I1": Row(
        "a path that leads up, to a button of Celery's page that one may not press",
        REFUSED,
        ("redis/server/test_celery_buttons.py::test_a_path_that_leads_up_presses_no_other_button",),
    ),
    "I2": Row(
        "runs of one's own in a group of somebody else, by its id or by a sweep",
        REFUSED,
        (
            "redis/server/test_groups.py::test_nobody_comes_into_an_array_or_a_bulk_submission_of_somebody_else",
            "redis/server/test_groups.py::test_a_sweep_makes_its_runs_in_no_other_group",
        ),
    ),
    "I3": Row(
        "a sweep whose sampler takes the memory or the time of who draws",
        REFUSED,
        ("unit/sweeps/test_search.py::test_a_sweep_that_takes_too_much_of_who_draws_is_refused_at_once",),
    ),
    "I4": Row(
        "an address of one's choice, behind a proxy that leaves the client's header",
        REFUSED,
        ("unit/server/test_fence.py::test_a_client_behind_a_proxy_does_not_choose_its_address",),
    ),
    "I5": Row(
        "a schedule of somebody else, replaced in the instant of its making",
        REFUSED,
        ("redis/server/test_things.py::test_of_two_schedules_of_one_name_the_first_stays",),
    ),
    "I6": Row(
        "a schedule of somebody else, paused or deleted since it took the place of one's own in that instant",
        REFUSED,
        ("redis/server/test_things.py::test_a_schedule_that_takes_the_place_of_ones_own_meanwhile_is_not_changed",),
    ),
    "I7": Row(
        "a schedule named ../people/users/NAME, whose Delete on an admin's page would be of that person",
        REFUSED,
        ("security/test_server.py::test_no_name_leads_a_button_or_link_of_a_page_to_another_route",),
    ),
    "I8": Row(
        "a stolen token that shuts its user out",
        REFUSED,
        ("redis/server/test_people.py::test_a_token_ends_itself_and_no_other_login_of_its_user",),
    ),
    "I10": Row(
        "an entry of the change feed from the far future, which ends the archive and is the last that it reads",
        HARMLESS,
        ("redis/archive/test_follow.py::test_an_entry_of_the_far_future_ends_neither_the_archive_nor_what_it_follows",),
    ),
    "I11": Row(
        "a notice in the outbox that cannot be read, the first one of a channel",
        HARMLESS,
        ("redis/notifications/test_rules.py::test_a_notice_of_a_stranger_that_cannot_be_read_keeps_no_other_back",),
    ),
    "I9": Row(
        "the worker's login in the environment of a health check or an init",
        REFUSED,
        (
            "deploy/test_compose.py::test_docker_compose_up_is_a_whole_system_that_outlasts_what_is_killed_in_it",
            "deploy/test_kubernetes.py::test_no_program_but_the_worker_has_its_login_where_jobs_are",
        ),
    ),
}
