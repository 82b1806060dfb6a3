"""Mutates the shipped model YAMLs and reads the results; anything but a model or a ConfigError is a finding.

    python benchmarks/fuzz_model_yaml.py --cases 100000 --seed 0

Every case is resolved and compiled, nothing is built. Half of the cases are changed as text, half as data, so
that enough of them get past the YAML parser. The same seed gives the same texts. Prints one JSON line; the
exit code is 1 when there is a finding, whose text and traceback are then left in a folder.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path

import torch
from model_constructor import ConfigError, compile_ir
from yaml_mutations import WORDS, Trial, mutate, parser_of, shipped, tell

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
    arguments = parser_of(__doc__, 100_000).parse_args()
    WORDS[:0] = _LANGUAGE.split()
    texts = shipped(*FOLDERS)
    rng = random.Random(arguments.seed)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "base.yaml").write_text(texts[0], encoding="utf-8")
        trial = Trial(compile_ir, (ConfigError,), Path(folder) / "case.yaml", arguments.findings)
        trial.over(
            (f"seed{arguments.seed}_case{number}", mutate(rng, texts)) for number in range(arguments.cases)
        )
    facts = {"cases": trial.tried, "seed": arguments.seed, "shipped_files": len(texts)}
    return tell(trial, started, **facts, torch=torch.__version__)


if __name__ == "__main__":
    sys.exit(main())
