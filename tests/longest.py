"""
The longest tests, which each process of a run begins with.

None can be divided, and the last to begin would keep the other processors waiting at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# Ten seconds and more, the longest first, as of `make test PYTEST_ARGS=--durations=40`.
LONGEST = (
    "test_a_packing_that_runs_keeps_no_worker_from_stopping",
    "test_the_page_lives_and_fits",
    "test_the_commands_of_a_page_do_what_it_says",
    "test_stopping_and_starting_loses_nothing_and_a_divergence_is_a_failed_task_in_flower",
    "test_a_worker_that_was_stopped_in_the_middle_of_a_push_is_paged_for_once",
    "test_without_javascript_it_asks_for_the_token_and_loads_itself_anew",
    "test_an_outage_with_a_thousand_commits_is_one_chain",
    "test_nothing_acknowledged_is_lost_while_everything_is_killed",
    "test_typed_clients_in_typescript_use_every_kind_of_endpoint",
    "test_whatever_is_sent_is_answered_as_the_document_says",
    "test_what_was_acknowledged_under_load_survives_a_power_cut",
    "test_it_starts_does_what_it_shows_and_ends_cleanly",
    "test_any_repository_is_served_and_a_post_lands_on_the_remote_within_a_second",
    "test_a_broker_that_refuses_for_now_is_waited_for",
    "test_the_demo_shows_the_main_job_and_ends_with_a_summary",
    "test_a_typed_client_in_python_uses_every_kind_of_endpoint",
    "test_doctor_says_when_a_token_ends",
    "test_a_value_that_was_not_shown_is_not_joined",
    "test_the_page_of_the_api_shows_an_operation_of_a_sheet_and_tries_it",
    "test_every_line_from_the_start_to_the_end_is_json",
    "test_the_pages_fit_and_are_found_by_keyboard",
    "test_a_measurement_for_machines",
)


def dealt(items: Sequence[Any], processes: int) -> list[Any]:
    """
    Return *items* with the longest dealt to the beginnings of *processes* stretches, one for each process.
    """
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    longest = sorted(
        (item for item in items if item.originalname in ranks), key=lambda item: ranks[item.originalname]
    )
    others = [item for item in items if item.originalname not in ranks]
    cuts = [len(others) * number // processes for number in range(processes + 1)]
    return [
        item
        for number in range(processes)
        for item in (*longest[number::processes], *others[cuts[number] : cuts[number + 1]])
    ]
