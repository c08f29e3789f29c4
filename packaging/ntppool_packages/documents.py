"""Write the copyright file and the changelog that every Debian package has."""

from collections.abc import Sequence

from ntppool_packages.sbom import licences
from ntppool_packages.source import ROOT, Source
from ntppool_packages.wheels import Wheel

MAINTAINER = "NTP Pool <help@ntppool.org>"
"""Whom the users of a package may ask."""


def copyright_file(site_packages: str, wheels: Sequence[Wheel]) -> str:
    """Return our licence, and the names and licences of what else is inside, with the place of their texts."""
    own = (ROOT / "LICENSE").read_text(encoding="utf-8").strip()
    others = "\n".join(f"  {name} {version}: {licence}" for name, version, licence in licences(wheels))
    return (
        f"NTP Pool Monitor\n\n{own}\n\n"
        "This package also contains the following libraries, unchanged, as their authors have published them. The\n"
        "texts of their licences and the names of their authors are in the folders whose names end in .dist-info,\n"
        f"in {site_packages}.\n\n{others}\n\n"
        "On Debian systems, the text of the Apache License, version 2.0, is in\n"
        "/usr/share/common-licenses/Apache-2.0, and that of the Mozilla Public License, version 2.0, in\n"
        "/usr/share/common-licenses/MPL-2.0.\n"
    )


def changelog(package: str, version: str, source: Source) -> str:
    """Return a changelog in Debian's format, which refers to the project's."""
    return (
        f"{package} ({version}) unstable; urgency=medium\n\n"
        f"  * Version {source.version} of NTP Pool Monitor; its changes are in its file CHANGELOG.md.\n\n"
        f" -- {MAINTAINER}  {source.time:%a, %d %b %Y %H:%M:%S +0000}\n"
    )
