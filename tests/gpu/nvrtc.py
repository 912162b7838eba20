"""Every case that a plan can choose, compiled for the GPUs in use: `nox -s nvrtc`, which takes no GPU and no driver.

It prints the registers of each, and fails where one spills some to memory or does not compile.
"""

from __future__ import annotations

import argparse
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product

from anynorm._engines.gpu.launch import compiled
from anynorm._engines.gpu.plan import HELD, HELD_TWICE, SIZES, Case, folding, is_whole, walk

ARCHITECTURES = ("75", "80", "90", "100", "120")
ROWS = sorted({n for power in range(16) for n in (2**power, 2**power + 1)})  # which meet every way to hold a row
ALONG = [(2, 1, 1, 40), (2, 1, 1, 49), (1, 64, 8, 3136), (1, 64, 8, 3137)]  # few and many vectors, whole and odd
DOWN = [(1, 1000, 64, 1), (1, 1000, 3, 7)]
ACROSS = [(1, 100, 1, 64), (1, 100, 1, 49)]  # for the gradients of what varies along rows


def walks(kernel: str, vec: int) -> set:
    """Return every way in which a kernel may walk over x."""
    if kernel.startswith("rows"):
        most = HELD if kernel == "rows" else HELD_TWICE
        return {walk(kernel, (1000, 1, 1, n), vec) for n in ROWS if is_whole((1000, 1, 1, n), vec, most)}
    if kernel.startswith("combine"):
        return {folding(1, many, form) for many in (1, 1000) for form in (0, *([1] if "products" in kernel else []))}
    found = {walk(kernel, shape, vec) for shape in ALONG + DOWN}
    return found | {walk(kernel, shape, vec, 2) for shape in ACROSS if kernel == "products"}


def cases() -> list[Case]:
    """Return all cases: dtypes of x, dy and parameters, and how to walk."""
    found = set()
    for kernel, kind in product(("rows", "partial", "apply", "rows_pull", "products", "apply_pull"), range(3)):
        pulls = kernel not in ("rows", "partial", "apply")
        gradients = {kind, 0} if pulls else {0}
        for vec, gradient, parameter in product((16 // SIZES[kind], 1), gradients, {kind, 0}):
            for how in walks(kernel, vec):
                found.add(Case(kernel, kind, gradient, parameter, how.vec, how.per, how.tpr, how.rows, how.form))
    for kernel, parameter in product(("combine", "combine_products"), range(3)):
        for how in walks(kernel, 1):
            own = parameter if kernel == "combine_products" else 0
            found.add(Case(kernel, 0, 0, own, how.vec, how.per, how.tpr, how.rows, how.form))
    return sorted(found)


def report(case: Case, architecture: str) -> tuple[Case, str, int, bool]:
    """Return a case with its registers, and whether it spills any."""
    _, said = compiled(case, architecture, "--ptxas-options=-v")
    registers = max(map(int, re.findall(r"Used (\d+) registers", said)))
    return case, architecture, registers, any(map(int, re.findall(r"(\d+) bytes spill", said)))


def main() -> int:
    """Compile everything; return how many cases spill."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architectures", nargs="+", default=ARCHITECTURES, help="compute capabilities, as 90")
    parser.add_argument("--kernel", help="this kernel alone")
    arguments = parser.parse_args()
    wanted = [case for case in cases() if arguments.kernel in (None, case.kernel)]
    print(f"{len(wanted)} cases for sm_{', sm_'.join(arguments.architectures)}")
    spilt, registers = 0, {}
    with ProcessPoolExecutor() as pool:
        for architecture in arguments.architectures:
            for case, _, used, spills in pool.map(partial(report, architecture=architecture), wanted, chunksize=8):
                registers.setdefault((case.kernel, architecture), []).append(used)
                if spills:
                    spilt += 1
                    print(f"SPILLS on sm_{architecture}: {case}, {used} registers")
            for kernel in dict.fromkeys(case.kernel for case in wanted):
                used = registers[kernel, architecture]
                print(
                    f"sm_{architecture} {kernel}: {len(used)} cases, {min(used)} to {max(used)} registers", flush=True
                )
    print("nothing spills" if not spilt else f"{spilt} cases spill")
    return min(spilt, 1)


if __name__ == "__main__":
    sys.exit(main())
