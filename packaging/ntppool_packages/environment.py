"""Lay out an environment of Python for a package below ``/usr/lib``: the distribution's interpreter, our libraries.

It is what ``python3 -m venv`` makes, for several versions of Python at once: each finds the one folder with modules by
a link. So the programs, and the processes that they start, see our libraries, and none of the distribution's.
"""

from collections.abc import Iterable, Mapping

from ntppool_packages.source import ROOT
from ntppool_packages.tree import PROGRAM, Tree


def site_packages(name: str) -> str:
    """Return the path of the folder with all modules."""
    return f"/usr/lib/{name}/lib/site-packages"


def add_environment(tree: Tree, name: str, pythons: Iterable[str], modules: Mapping[str, bytes], main: str) -> None:
    """Add the environment ``/usr/lib/NAME``, and the program ``/usr/bin/NAME``.

    Args:
        modules: files by their path below ``site-packages``.
        main: the module with the function ``main`` that the program calls.
    """
    home = f"/usr/lib/{name}"
    tree.add(f"{home}/pyvenv.cfg", "home = /usr/bin\ninclude-system-site-packages = false\n")
    tree.link(f"{home}/bin/python3", "../../../bin/python3")
    tree.add(f"{home}/bin/{name}", _program(name, main), PROGRAM)
    tree.link(f"/usr/bin/{name}", f"../lib/{name}/bin/{name}")
    tree.add_all(site_packages(name), modules)
    for python in pythons:
        tree.link(f"{home}/lib/python{python}/site-packages", "../site-packages")
    tree.add(f"{home}/compile", _script("compile.sh", name), PROGRAM)


def add_recompilation(tree: Tree, name: str) -> None:
    """Add Debian's hook for a changed version of Python."""
    tree.add(f"/usr/share/python3/runtime.d/{name}.rtupdate", _script("rtupdate.sh", name), PROGRAM)


def _program(name: str, main: str) -> str:
    # -I: neither the user's modules nor those of the current directory.
    return f"#!/usr/lib/{name}/bin/python3 -I\nimport sys\n\nfrom {main} import main\n\nsys.exit(main())\n"


def _script(file: str, name: str) -> str:
    return (ROOT / "packaging" / file).read_text(encoding="utf-8").replace("@NAME@", name)
