"""The bill of materials of what is installed to serve: dist/sbom.cdx.json, in CycloneDX, by `make sbom`.

What is meant are all extras, and nothing that only builds or tests; the container's image has part of it, which is
deploy/serving.lock. Versions and hashes are those of requirements.lock, so that it says what anybody gets who installs
by that file.
"""

import tomllib
from importlib.metadata import distribution

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from locked import LOCK, Pin, locked
from needs import OWN, needed
from packageurl import PackageURL

PLACE = LOCK.parent / "dist" / "sbom.cdx.json"


def main() -> None:
    """Writes it."""
    PLACE.parent.mkdir(exist_ok=True)
    made = bill()
    PLACE.write_text(make_outputter(made, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2))
    print(f"{PLACE.relative_to(LOCK.parent)}: {len(made.components)} components")


def bill() -> Bom:
    """Everything that serving needs, and who needs it."""
    needs = needed(OWN, frozenset(_extras()))
    pins = locked(LOCK.read_text())
    known = {name: _own() if name == OWN else _component(pins[name]) for name in needs}
    made = Bom(components=[component for name, component in known.items() if name != OWN])
    made.metadata.component = known[OWN]
    for name, below in needs.items():
        made.register_dependency(known[name], [known[each] for each in sorted(below)])
    return made


def _extras() -> list[str]:
    return list(tomllib.loads((LOCK.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"])


def _own() -> Component:
    return _described(OWN, distribution(OWN).version, ComponentType.APPLICATION)


def _component(pin: Pin) -> Component:
    made = _described(pin.name, pin.version, ComponentType.LIBRARY)
    # a version has a file for each platform, and a component one hash of a kind: so they are properties of it
    made.properties.update(Property(name="requirements.lock:sha256", value=each) for each in pin.hashes)
    if len(pin.hashes) == 1:
        made.hashes.add(HashType(alg=HashAlgorithm.SHA_256, content=pin.hashes[0]))
    return made


def _described(name: str, version: str, kind: ComponentType) -> Component:
    license_named = distribution(name).metadata.get("License-Expression")
    return Component(
        name=name,
        version=version,
        type=kind,
        bom_ref=f"{name}=={version}",
        purl=PackageURL("pypi", name=name, version=version),
        licenses=[LicenseFactory().make_from_string(license_named)] if license_named else [],
    )


if __name__ == "__main__":
    main()
