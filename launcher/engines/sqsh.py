"""The .sqsh of a recorded image, for engines that start from one."""

from __future__ import annotations

from pathlib import Path

from images.building import identity
from images.locking.model import Entry
from images.squashing import sidecar
from launcher.core.plan import ImageInfo
from slipway.errors import SlipwayError
from slipway.project import Root


def find(root: Root, entry: Entry, named: str | None, platform: str) -> ImageInfo:
    """The newest recorded image of `entry` that is in the folder `named`, whole and with a sidecar that says so.

    One for another platform is taken where there is none for this one: it says what is wrong.
    """
    folder, other = Path(named) if named else sidecar.folder(root), None
    records = identity.records(root, entry)
    for record in records:
        file = folder / sidecar.file_name(record) if named else root.kept(folder / sidecar.file_name(record))
        if not file.is_file():
            continue
        try:
            said = sidecar.read(file)
        except SlipwayError as e:
            return ImageInfo(recorded=len(records), missing=f"{file}: {e.what}", remedy=e.remedy)
        if said.entry != entry.checksum or said.size != file.stat().st_size:
            what = f"{file} is not what its sidecar says: {said.size} bytes of entry {said.entry[:12]}"
            return ImageInfo(recorded=len(records), missing=what, remedy=f"run: {_squash(entry, named)}")
        found = ImageInfo(
            id=said.ids[0], source=str(file), recorded=len(records), drift=record.drift, left_out=record.left_out,
            configurations=record.configurations, classes=record.classes, platform=said.platform,
        )  # fmt: skip
        if said.platform == platform:
            return found
        other = other or found
    if other:
        return other
    what = f"there is no {entry.name.replace('/', '-')}-*.sqsh of it in {folder}"
    if records:
        remedy = f"run: {_squash(entry, named)}"
    elif entry.base.image:  # it can be made without an engine; one that answers builds it
        remedy = f"run: {_squash(entry, named)}; where a Docker engine is, first: {entry.build_command}"
    else:
        remedy = f"run: {entry.build_command}, then {_squash(entry, named)}"
    return ImageInfo(recorded=len(records), missing=what, remedy=remedy)


def _squash(entry: Entry, named: str | None) -> str:
    return f"images squash {entry.name}" + (f" --dir {named}" if named else "")
