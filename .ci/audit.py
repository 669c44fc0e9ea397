"""Compare every pin of constraints.txt with the published vulnerabilities, by pip-audit: `make audit`.

    python .ci/audit.py

Exit code 0: none is known, or nobody could be asked, and then the reason is printed. 1: a pin has a known one,
or pip-audit fails though there is somebody to ask. pip-audit lives in an environment of its own (.venv-audit), so that
nothing it needs stands beside what it judges. Needs nothing but Python 3.11.
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PINS = (ROOT / "constraints.txt", ROOT / ".ci" / "audit-constraints.txt")
HOME = ROOT / ".venv-audit"
SERVICES = {"pypi": "https://pypi.org/pypi/pip/json", "osv": "https://api.osv.dev/"}
"""Whom pip-audit asks, the second where the first does not answer, and where one sees whether they can be reached."""
PATIENCE_S, KNOCK_S = 900, 20
DONE, FOUND = 0, 1


def main() -> int:
    """Audit, say what came of it, and return the exit code."""
    reasons, python = [], None
    for service, url in SERVICES.items():
        closed = unreachable(url)
        if closed:
            reasons.append(f"{service}: {closed}")
            continue
        if python is None:
            python, problem = _environment()
            if problem:
                return _skipped(f"pip-audit cannot be installed ({problem})")
        reports = []
        for pins in PINS:
            report, problem = _ask(python, service, pins)
            if report is None:
                print(f"audit failed: {pins.name}, {service}: {problem}")
                return FOUND
            reports += report["dependencies"]
        audited, unknown, found = judged(reports)
        if not audited and not found:
            # pip-audit calls this "no known vulnerabilities".
            reasons.append(f"{service}: it knows none of the {len(unknown)} pins, as a mirror of the index does not")
            continue
        for line in found:
            print(f"vulnerable: {line}")
        if unknown:
            print(f"not audited, {service} does not know them: {', '.join(unknown)}")
        print(f"audit: {audited} pins by {service}, {len(found)} known vulnerabilities")
        return FOUND if found else DONE
    return _skipped("; ".join(reasons))


def unreachable(url: str) -> str:
    """Say why a service cannot be asked; empty where it answers, whatever it says."""
    try:
        with urllib.request.urlopen(url, timeout=KNOCK_S):
            return ""
    except urllib.error.HTTPError as answer:
        return "" if answer.code < 500 else f"HTTP status {answer.code}"
    except OSError as error:
        return f"it cannot be reached ({getattr(error, 'reason', error)})"


def judged(dependencies: list[dict[str, Any]]) -> tuple[int, list[str], list[str]]:
    """Return what reports of pip-audit say: pins audited, pins that the service does not know, findings by line."""
    audited, unknown, found = 0, [], []
    for pin in dependencies:
        if "vulns" not in pin:
            unknown.append(str(pin["name"]))
            continue
        audited += 1
        for vulnerability in pin["vulns"]:
            mended = ", ".join(vulnerability.get("fix_versions", ())) or "no version"
            names = ", ".join([vulnerability["id"], *vulnerability.get("aliases", ())])
            found.append(f"{pin['name']} {pin['version']}: {names} (mended in {mended})")
    return audited, unknown, found


def _ask(python: Path, service: str, pins: Path) -> tuple[dict[str, Any] | None, str]:
    command = [str(python), "-m", "pip_audit", "--vulnerability-service", service, "--format", "json"]
    command += ["--no-deps", "--disable-pip", "--desc", "off", "--progress-spinner", "off", "--requirement", str(pins)]
    done, problem = _run(command)
    try:
        # Exit code 1 stands for findings and for failures alike; only findings come with a report.
        report = json.loads(done.stdout) if done else None
        return (report, "") if isinstance(report, dict) and "dependencies" in report else (None, problem)
    except ValueError:
        return None, problem


def _environment() -> tuple[Path, str]:
    """Make the environment, or bring it to the pinned versions; say what went wrong."""
    python = HOME / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    if not python.exists():
        venv.create(HOME, with_pip=True)
    done, problem = _run([str(python), "-m", "pip", "install", "--quiet", "--constraint", str(PINS[1]), "pip-audit"])
    return python, "" if done is not None and done.returncode == 0 else problem


def _run(command: list[str]) -> tuple[subprocess.CompletedProcess[str] | None, str]:
    """Run a program: what came of it, and the last thing that it said on its way to an error."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    except subprocess.TimeoutExpired:
        return None, f"no answer in {PATIENCE_S} s"
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return done, lines[-1].strip()[:300] if lines else f"exit code {done.returncode}, and no reason"


def _skipped(reason: str) -> int:
    print(f"audit skipped, nobody could be asked: {reason}")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
