"""Write the CycloneDX bill of materials of what is shipped.

    python -m tools.sbom dist/sbom.cdx.json

cyclonedx-py lists all that an environment has, tests and linters too. So it gets one that has nothing but the metadata
of the packages in requirements.txt, which are installed and verified already: no network is needed.
"""

import re
import subprocess
import sys
import tempfile
import venv
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement

from sitecore_cdp_exporter import __version__

ROOT = Path(__file__).parent.parent


def main(output: Path) -> int:
    """Write the file; return the exit status of cyclonedx-py."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder)
        venv.create(environment, symlinks=True)
        [packages] = environment.glob("lib/*/site-packages")
        for metadata in shipped_metadata():
            (packages / metadata.name).symlink_to(metadata)
        pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        # cyclonedx-py does not read a version that hatchling takes from the code.
        versioned = pyproject.replace('dynamic = ["readme", "version"]', f'version = "{__version__}"')
        (environment / "pyproject.toml").write_text(versioned, encoding="utf-8")
        command = [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible"]
        command += [f"--pyproject={environment / 'pyproject.toml'}", f"--output-file={output}", folder]
        return subprocess.run(command, check=False).returncode  # noqa: S603  Its arguments are ours.


def shipped_metadata() -> list[Path]:
    """Find the .dist-info folders of the packages that requirements.txt names for this machine."""
    lock = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    folders = []
    for requirement in map(Requirement, re.findall(r"(?m)^(\S+==.*?) \\$", lock)):
        if requirement.marker is None or requirement.marker.evaluate():
            installed = distribution(requirement.name)
            [metadata] = (file for file in installed.files or () if file.name == "METADATA")
            folders.append(Path(str(installed.locate_file(metadata))).parent)
    return folders


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
