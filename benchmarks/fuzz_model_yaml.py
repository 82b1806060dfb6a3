"""Mutates the shipped model YAMLs and reads the results; anything but a model or a ConfigError is a finding.

    python benchmarks/fuzz_model_yaml.py --cases 100000 --seed 0

Every case is resolved and compiled, nothing is built. Half of the cases are changed as text, half as data, so
that enough of them get past the YAML parser. The same seed gives the same texts. Prints one JSON line; the
exit code is 1 when there is a finding, whose text and traceback are then left in a folder.
"""

from __future__ import annotations

import argparse
import collections
import json
import platform
import random
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch
import yaml
from model_constructor import ConfigError, compile_ir
from yaml_mutations import WORDS, mutate, shipped

FOLDERS = ("experiment_models", "policy_constructor/configs")
# Words of the language, to be put anywhere.
_LANGUAGE = """
_type_ _target_ _args_ _kwargs_ _name_ _merge_ _value_ _template_ replace append prepend keyed key
schema_version model graph sequential layers inputs modules nodes steps order outputs return name call
args kwargs out imports settings strict allow_target allowed_import_prefixes defaults templates params
single tuple dict module: op: op:add op:cat module:x nn.Linear mlp self class keys $x $$x $ $h0 ${params}
${params.x} ${model} ${params.x[0][1]} ${} ${a.} ${ ${env:HOME} ${env:int:HOME} ${env:json:NO,{"a":[1]}}
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--findings", type=Path, default=Path("fuzz_findings"), help="folder for texts that fail"
    )
    arguments = parser.parse_args()
    WORDS[:0] = _LANGUAGE.split()
    texts = shipped(*FOLDERS)
    rng = random.Random(arguments.seed)
    counts: collections.Counter[str] = collections.Counter()
    started = time.perf_counter()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        case = Path(folder) / "case.yaml"
        (Path(folder) / "base.yaml").write_text(texts[0], encoding="utf-8")
        for number in range(arguments.cases):
            text = mutate(rng, texts)
            case.write_text(text, encoding="utf-8", newline="")
            begun = time.perf_counter()
            try:
                compile_ir(case)
                counts["models"] += 1
            except ConfigError as error:
                counts["config_errors"] += 1
                counts["mistakes"] += len(error.errors)
                counts["mistakes_without_a_place"] += sum(one.location is None for one in error.errors)
            except Exception:
                counts["findings"] += 1
                arguments.findings.mkdir(exist_ok=True)
                found = arguments.findings / f"seed{arguments.seed}_case{number}"
                found.with_suffix(".yaml").write_text(text, encoding="utf-8", newline="")
                found.with_suffix(".txt").write_text(traceback.format_exc(), encoding="utf-8")
            slowest = max(slowest, time.perf_counter() - begun)
    names = ("models", "config_errors", "mistakes", "mistakes_without_a_place", "findings")
    result = {
        "cases": arguments.cases,
        "seed": arguments.seed,
        **{name: counts[name] for name in names},
        "shipped_files": len(texts),
        "seconds": round(time.perf_counter() - started, 1),
        "slowest_case_ms": round(1000 * slowest, 1),
        "python": platform.python_version(),
        "pyyaml": yaml.__version__,
        "torch": torch.__version__,
    }
    print(json.dumps(result))
    return 1 if counts["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
