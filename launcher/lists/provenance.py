"""A lineage in W3C's words (PROV-JSON): things are entities, runs are activities."""

from __future__ import annotations

from typing import Any

from launcher.records.lineage import Made, Thing
from slipway import canonical
from slipway.errors import Exit, SlipwayError

NAMESPACE = "urn:slipway:"


def as_prov(thing: Thing) -> str:
    """PROV-JSON of a tree. Raises SlipwayError 78 where the library `prov` is not installed."""
    try:
        from prov.model import ProvDocument
    except ImportError as e:
        how = "pip install 'slipway[prov]'"
        raise SlipwayError(Exit.CONFIG, "prov is not installed", where="--prov", remedy=how) from e
    document = ProvDocument()
    document.add_namespace("slipway", NAMESPACE)
    _thing(document, thing, {})
    return str(document.serialize(indent=2)) + "\n"


def _thing(document: Any, thing: Thing, known: dict[str, Any]) -> Any:
    """The entity of a thing, which is named by what it holds, or where that is not known by its place."""
    name = f"slipway:thing-{thing.fingerprint or canonical.sha256(thing.path)}"
    if name in known:
        return known[name]
    facts = {"prov:label": thing.path, "prov:type": thing.type, "slipway:note": thing.note}
    entity = document.entity(name, {key: value for key, value in facts.items() if value})
    known[name] = entity
    if thing.made_by:
        document.wasGeneratedBy(entity, _run(document, thing.made_by, known))
        for given in thing.made_by.inputs.values():
            document.wasDerivedFrom(entity, _thing(document, given, known))
    return entity


def _run(document: Any, made: Made, known: dict[str, Any]) -> Any:
    name = f"slipway:run-{made.run}"
    if name in known:
        return known[name]
    facts = {
        "prov:type": made.step, "slipway:image": made.image, "slipway:entry": made.entry, "slipway:state": made.state,
        "slipway:commit": made.commit, "slipway:directory": made.directory,
    }  # fmt: skip
    activity = document.activity(name, None, None, {key: value for key, value in facts.items() if value})
    known[name] = activity
    for given in made.inputs.values():
        document.used(activity, _thing(document, given, known))
    if made.resumes:
        before = f"slipway:run-{made.resumes}"
        if before not in known:
            known[before] = document.activity(before)
        document.wasInformedBy(activity, known[before])
    return activity
