"""axe-core, the referee of accessibility: fetched once, pinned by version and by both digests, served to nobody."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from recognition.fetch_models import (
    ModelsUnavailableError,
    Package,
    Part,
    fetch_models,
    find_registry,
    models_folder,
    read_model,
)

AXE = Part(
    file="axe.min.js",
    member="package/axe.min.js",
    start=0,
    length=653_780,
    sha256="29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c",
)
PACKAGE = Package(
    name="axe-core",
    version="4.14.1",
    integrity="FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==",
    bytes=708_405,
    parts=(AXE,),
)
GRAVE = {"serious", "critical"}
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


@dataclass(frozen=True)
class Issue:
    """One rule that one page breaks, with the first elements that do."""

    where: str
    rule: str
    impact: str
    help: str
    elements: list[str]

    def __str__(self) -> str:
        return f"{self.where}: {self.rule} ({self.impact}): {self.help}: {'; '.join(self.elements[:3])}"


def axe_script() -> str:
    """The script, from the folder of fetched things or, the first time, from the registry."""
    folder = models_folder()
    try:
        fetch_models(
            folder,
            registry=find_registry(),
            advance=lambda package: lambda so_far, in_all: None,
            packages=(PACKAGE,),
        )
        return read_model(AXE, Path(folder)).decode()
    except ModelsUnavailableError as missing:
        if os.environ.get("LINTEL_NO_SKIPS") == "1":
            pytest.fail(f"SERVICE MISSING: {missing}")
        pytest.skip(f"SERVICE MISSING: {missing}")


def grave_issues(page: Page, where: str, *, rules: list[str] | None = None) -> list[Issue]:
    """What axe finds serious or critical on the page as it stands; all WCAG 2.2 AA rules, or the named ones."""
    options: dict[str, Any] = {
        "runOnly": {"type": "rule", "values": rules} if rules else {"type": "tag", "values": WCAG},
        "resultTypes": ["violations"],
        "iframes": False,
        "preload": False,
    }
    if rules is None:
        options["rules"] = {"target-size": {"enabled": True}}  # new in WCAG 2.2, and off unless asked for
    found = page.evaluate("options => axe.run(document, options).then(result => result.violations)", options)
    return [
        Issue(where, each["id"], each["impact"], each["help"], [node["html"][:160] for node in each["nodes"]])
        for each in found
        if each["impact"] in GRAVE
    ]
