"""`make bench`: measures all sections, and writes docs/benchmarks.md with its plots and figures.

`make bench quick` measures less, and writes to .data/benchmarks. So does another number of posts:
`make bench posts=1000000 only=export`. `make bench only="ladder cache"` measures some of the
sections again, and keeps the others.
"""

import argparse
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path

from benchmarks import figures, report
from benchmarks.load import find_tool, find_wrk
from benchmarks.machine import describe
from benchmarks.section import Data, all_sections, name_of
from benchmarks.world import FULL, QUICK, Effort, open_world
from dev.terminal import CommandError, bold, say

QUICK_FOLDER = figures.ROOT / ".data" / "benchmarks"


def main() -> None:
    arguments = _parse_arguments()
    find_wrk()
    effort = QUICK if arguments.quick else FULL
    if arguments.posts:
        effort = replace(effort, posts=arguments.posts)
    is_published = not (arguments.quick or arguments.posts)
    folder = figures.DATA.parent if is_published else QUICK_FOLDER
    known = {name_of(section): section for section in all_sections()}
    in_run = [
        name
        for name, section in known.items()
        if getattr(section, "IN_QUICK", True) or not arguments.quick
    ]
    chosen = arguments.sections or in_run
    if "ladder" in chosen and "claims" in known and "claims" not in chosen:
        chosen.append("claims")  # it shows figures of the ladder
    if unknown := sorted(set(chosen) - set(known)):
        raise CommandError(f"There is no section {', '.join(unknown)}. Choose: {', '.join(known)}")
    for name in chosen:
        for tool in getattr(known[name], "TOOLS", ()):
            find_tool(*tool)
    data, failed = run(effort, folder, chosen)
    problems = []
    if failed:
        problems.append(
            f"Not measured: {', '.join(failed)}. Correct the errors above, then run: "
            f'make bench only="{" ".join(failed)}"'
        )
    if is_published:
        try:
            figures.rewrite(figures.ROOT, data["figures"] | figures.of_faults(figures.FAULTS))
        except CommandError as error:
            problems.append(str(error))
    if problems:
        raise CommandError("\n".join(problems))


def run(effort: Effort, folder: Path, chosen: list[str]) -> tuple[Data, list[str]]:
    """Measure sections, and return all data with the names of the sections that failed.

    The data is written after each section, so that nothing is lost when a later one fails.
    """
    started, failed = time.monotonic(), list[str]()
    with open_world(effort) as world:
        machine = describe(world)
        data: Data = {"sections": {}}
        if (folder / "benchmarks.json").exists():
            data = report.read(folder)
        known = {name_of(section): section for section in all_sections()}
        data["sections"] = {
            name: measured
            for name, measured in data["sections"].items()
            if name in known and name not in chosen
        }
        data["machine"] = machine
        for name, section in known.items():
            if name not in chosen:
                continue
            say(f"\n{bold(section.TITLE)} ({time.monotonic() - started:.0f} s so far)")
            world.measured = {one: found["data"] for one, found in data["sections"].items()}
            try:
                measured = section.measure(world)
            except Exception as error:  # the other sections do not depend on it
                say(str(error) if isinstance(error, CommandError) else traceback.format_exc())
                failed.append(name)
                continue
            data["sections"][name] = {"commit": machine["commit"], "data": measured}
            report.save(data, folder)
    report.write(data, folder)
    minutes = (time.monotonic() - started) / 60
    say(f"\nWrote {folder / 'benchmarks.md'} in {minutes:.0f} minutes.")
    return data, failed


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("sections", nargs="*")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--posts", type=int)
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except CommandError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Interrupted. Run make bench again.")
