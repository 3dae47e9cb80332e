"""A training killed at least forty times, in every stage of a save and elsewhere, on one rank and on two, ends as one that was not."""

from training_faults import PLACES, campaign

KILLS = 40


def test_forty_kills_change_no_byte_of_the_weights_and_no_line_of_the_journal(tmp_path):
    digests, results = campaign(tmp_path, KILLS)
    assert [result for result in results if not result.equal] == []
    assert sum(result.kills for result in results) >= KILLS
    assert {result.trial.place for result in results} == set(PLACES)
    assert {result.trial.world for result in results} == {1, 2}
    assert digests[1] != digests[2], "two ranks sum in another order: equal digests would mean that one of them did not train"
