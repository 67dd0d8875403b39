"""What a person finds who asks the command line for help: examples that work, completion, and one name for all."""

import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from imaging_pipeline.commands import COMMANDS, main
from imaging_pipeline.completion import completion
from imaging_pipeline.settings import resolve

ROOT = Path(__file__).parents[1]
PROGRAM = "python -m imaging_pipeline."


def help_of(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        import_module(f"imaging_pipeline.{name}").main(["--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_in_the_help_of_a_command_is_one_that_can_be_typed(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = help_of(name, capsys)
    examples = [line.strip() for line in text.splitlines() if line.startswith(f"  {PROGRAM}")]
    assert sum(line.startswith(f"{PROGRAM}{name} ") for line in examples) >= 2
    for line in examples:
        words = shlex.split(re.split(r" [>|] ", line)[0], comments=True)
        parser = import_module(words[2]).command_line()
        for assignment in getattr(parser.parse_args(words[3:]), "set", []):
            assert resolve(None, [assignment])
    options = text.split("examples:")[0]
    assert max(map(len, options.splitlines())) <= 80, "prose and the help of options fit the terminal"


def test_every_command_in_the_readme_is_one_that_can_be_typed() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    started = re.compile(
        r"^(?:[\d*]+ [\d*]+ \S+ \S+ \S+ +)?(?:imaging-pipeline |.*python -m imaging_pipeline\.)(?=[a-z]+ )"
    )
    found = [line[match.end() :] for line in lines if (match := started.match(line)) and "`" not in line]
    assert len(found) > 20
    for line in found:
        name, *words = shlex.split(re.split(r" [>|] ", line)[0], comments=True)
        import_module(f"imaging_pipeline.{name}").command_line().parse_args(words)


def test_a_name_for_all_commands_loads_only_the_one_that_is_asked_for() -> None:
    script = (
        "import sys\n"
        "from imaging_pipeline.commands import main\n"
        "def loaded(): print('LOADED', *sorted(name for name in sys.modules if name.startswith('imaging_pipeline')\n"
        "    or name in {'torch', 'monai', 'pyspark', 'pyarrow'}))\n"
        "for words in (['--help'], ['models', '--help']):\n"
        "    try: main(words)\n"
        "    except SystemExit as end: assert not end.code\n"
        "    loaded()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    first, second = (set(line.split()[1:]) for line in done.stdout.splitlines() if line.startswith("LOADED"))
    assert first == {"imaging_pipeline", "imaging_pipeline.commands"}
    assert all(f"  {name}" in done.stdout for name in COMMANDS)
    assert "imaging_pipeline.models" in second
    assert not second & {"torch", "monai", "pyspark", "imaging_pipeline.run", "imaging_pipeline.query"}


def test_commands_go_by_the_name_that_they_were_started_by(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/local/bin/imaging-pipeline", "verify", "--help"])
    with pytest.raises(SystemExit):
        main()
    text = capsys.readouterr().out
    assert "usage: imaging-pipeline verify" in text
    assert "  imaging-pipeline verify RESULTS\n" in text
    assert "python -m" not in text


def test_a_command_that_is_none_is_answered_with_those_that_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["qurey", "RESULTS"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "qurey" in said
    assert "query" in said


def test_bash_completes_commands_options_settings_and_folders(tmp_path: Path) -> None:
    script = tmp_path / "completion.bash"
    script.write_text(completion("bash"))
    (tmp_path / "studies").mkdir()
    typed = {
        "''": " ".join(COMMANDS),
        "re": "rerun report receive",
        "run stu": "studies",
        "run studies --sav": "--save-image --save-probabilities",
        "run studies --set geometry.missing": "geometry.missing_slices=",
        "models ex": "export",
        "query R --fl": "--flags",
    }
    steps = [f"source <(cat {script})", "read -ra bound < <(complete -p imaging-pipeline)"]
    for words in typed:
        steps += [f"COMP_WORDS=(imaging-pipeline {words})", "COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))"]
        steps += ["${bound[-2]}", 'echo "${COMPREPLY[*]}"']
    done = subprocess.run(["bash", "-c", "\n".join(steps)], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert dict(zip(typed, done.stdout.splitlines(), strict=True)) == typed


@pytest.mark.parametrize("shell", ["zsh", "tcsh", "fish"])
def test_other_shells_get_a_completion_of_their_own(shell: str) -> None:
    assert all(name in completion(shell) for name in COMMANDS)


def test_the_console_script_names_a_function_that_is_there() -> None:
    declared = (ROOT / "setup.cfg").read_text().split("console_scripts =\n")[1].split("\n\n")[0]
    name, module, function = re.fullmatch(r"\s+(\S+) = (\S+):(\S+)", declared).groups()  # type: ignore[union-attr]
    assert (name, getattr(import_module(module), function)) == ("imaging-pipeline", main)
