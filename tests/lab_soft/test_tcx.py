"""TCX on this kernel: there from 6.6 on; before that frames go by clsact alone."""

from tests.soft.test_tcx import (
    test_a_daemon_killed_while_hooks_come_leaves_what_the_next_one_finishes,
    test_a_newer_daemon_puts_its_program_at_all_hooks_before_it_does_anything_else,
    test_clsact_alone_enforces_and_follows_changes_when_somebody_takes_the_hooks_away,
    test_each_frame_is_judged_and_counted_once,
    test_hooks_that_somebody_took_away_are_back_when_the_daemon_starts_again,
    test_the_program_comes_to_the_hook_of_every_vf_and_of_nothing_else,
)

__all__ = [
    "test_a_daemon_killed_while_hooks_come_leaves_what_the_next_one_finishes",
    "test_a_newer_daemon_puts_its_program_at_all_hooks_before_it_does_anything_else",
    "test_clsact_alone_enforces_and_follows_changes_when_somebody_takes_the_hooks_away",
    "test_each_frame_is_judged_and_counted_once",
    "test_hooks_that_somebody_took_away_are_back_when_the_daemon_starts_again",
    "test_the_program_comes_to_the_hook_of_every_vf_and_of_nothing_else",
]
