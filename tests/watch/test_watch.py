"""The watched batches of the config, of files and of discovery, merged."""

from sitecore_cdp_exporter.config.model import Config
from sitecore_cdp_exporter.watch.watchlist import watch

REFS = [f"5a0c2f0e-6d0b-4c51-9d3c-{number:012x}" for number in range(3)]


def test_thousands_of_batches_share_what_is_the_same_for_all() -> None:
    feeds = [{"name": "guests", "labels": {"team": "crm"}}]
    batches = [{"ref": ref, "feed": "guests"} for ref in REFS]
    config = Config.model_validate({"api": {"base_url": "https://api.example.com"}, "feeds": feeds, "batches": batches})
    watched = watch(config, (), ())
    assert [*watched] == REFS
    assert len({id(each.labels) for each in watched.values()}) == 1
    assert len({id(each.replaces) for each in watched.values()}) == 1
    assert all(key is each.ref for key, each in watched.items())


def test_the_case_of_a_ref_does_not_matter() -> None:
    listed = REFS[0].upper()
    config = Config.model_validate({"api": {"base_url": "https://api.example.com"}, "batches": [listed]})
    watched = watch(config, (), REFS)
    assert [*watched] == REFS
    assert watched[REFS[0]].ref == listed
