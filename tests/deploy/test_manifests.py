"""What is in deploy/ fits the program: settings, ports and verbs exist, and nothing has more rights than it needs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kubernetes_validate
import pytest
import yaml
from cryptography import x509

from manager.cli.app import VERBS
from manager.settings import Settings

DEPLOY = Path(__file__).parents[2] / "deploy"
FILES = [DEPLOY / name for name in ("Dockerfile", "compose.yaml", "kubernetes.yaml", "instance-manager.service")]
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
KUBERNETES: dict[str, dict[str, Any]] = {
    each["kind"]: each for each in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
}
POD = KUBERNETES["Deployment"]["spec"]["template"]["spec"]
(MANAGER,) = POD["containers"]
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
UNIT = (DEPLOY / "instance-manager.service").read_text()
PORTS = {Settings().port, Settings().http_at}
# of compose, by which its reader names the passwords; no manager sees them
OF_COMPOSE = {"IM_OWNER_PASSWORD", "IM_SERVER_PASSWORD"}
(CERTIFICATES,) = COMPOSE["services"]["certificates"]["command"]
OWN = [name for name, each in COMPOSE["services"].items() if each["image"] == "instance-manager"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_variable_is_a_setting(file: Path) -> None:
    named = set(re.findall(r"\bIM_[A-Z_]+\b", file.read_text())) - OF_COMPOSE
    assert named
    assert {each.removeprefix("IM_").lower() for each in named} <= Settings.model_fields.keys()


def test_what_is_run_are_verbs() -> None:
    run = [COMPOSE["services"][name].get("command", [])[:1] for name in OWN if name not in ("token", "certificates")]
    run += [re.findall(r"^imctl (\w+) ", CERTIFICATES, re.M)]
    run += [each["args"][:1] for each in (*POD["initContainers"], MANAGER)]
    run += [COMPOSE["services"]["token"]["entrypoint"][1:], re.findall(r"^ExecStart=\S+/imctl (\S+)$", UNIT, re.M)]
    run += [re.findall(r'^CMD \["(\w+)"\]$', DOCKERFILE, re.M)]
    assert all(len(each) == 1 for each in run)
    assert {verb for (verb,) in run} == {"serve", "migrate", "token", "certs"}
    assert {verb for (verb,) in run} <= VERBS.keys()


def test_the_ports_are_those_that_are_served() -> None:
    assert {int(each) for each in re.findall(r"^EXPOSE (.*)$", DOCKERFILE, re.M)[0].split()} == PORTS
    assert {each["containerPort"] for each in MANAGER["ports"]} == PORTS
    assert {each["port"] for each in KUBERNETES["Service"]["spec"]["ports"]} == PORTS
    rules = KUBERNETES["NetworkPolicy"]["spec"]["ingress"]
    assert {port["port"] for rule in rules for port in rule["ports"]} == PORTS
    assert set(COMPOSE["services"]["manager"]["ports"]) == {f"127.0.0.1:{port}:{port}" for port in PORTS}


def test_whoever_listens_on_a_network_asks_for_tls_and_tokens() -> None:
    given = {each["name"]: each.get("value") for each in MANAGER["env"]}
    assert given["IM_AUTH"] == COMPOSE["services"]["manager"]["environment"]["IM_AUTH"] == "true"
    assert "IM_AUTH=true" in UNIT
    mounts = {each["mountPath"]: each for each in MANAGER["volumeMounts"]}
    for name in ("IM_TLS_CERT", "IM_TLS_KEY", "IM_TLS_CLIENT_CA"):
        assert mounts[str(Path(given[name]).parent)]["readOnly"]
    (volume,) = POD["volumes"]
    assert volume["secret"]["defaultMode"] == 0o440, "the key is root's, and its group's to read"


def test_compose_asks_a_database_with_tls_and_makes_sure_which_it_is() -> None:
    assert "ssl=on" in COMPOSE["services"]["database"]["command"]
    assert "IM_INSECURE_I_KNOW" not in (DEPLOY / "compose.yaml").read_text()
    asking = [each for each in COMPOSE["services"].values() if "DATABASE_URL" in each.get("environment", {})]
    assert len(asking) == 4
    for each in asking:
        asked = urlsplit(each["environment"]["DATABASE_URL"])
        assert asked.password is None
        assert re.fullmatch(r"\$\{IM_(OWNER|SERVER)_PASSWORD\}", each["environment"]["PGPASSWORD"])
        assert parse_qs(asked.query) == {"sslmode": ["verify-full"], "sslrootcert": ["/tls/ca.pem"]}
        assert (asked.hostname, each["volumes"]) == ("database", ["tls:/tls:ro"])


def certified(folder: Path) -> dict[str, bytes]:
    """What the container of the certificates leaves there."""
    there = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    script = CERTIFICATES.replace("/tls", str(folder)).replace("$$", "$")
    subprocess.run([*COMPOSE["services"]["certificates"]["entrypoint"], script], env=there, check=True)
    return {each.name: each.read_bytes() for each in folder.iterdir()}


def test_the_certificate_of_the_database_is_made_once_and_nobody_can_make_another(tmp_path: Path) -> None:
    made = certified(tmp_path)
    assert made.keys() == {"ca.pem", "server.pem", "server.key"}
    assert (tmp_path / "server.key").stat().st_mode & 0o777 == 0o640, "PostgreSQL's group may read it, and nobody else"
    by, one = (x509.load_pem_x509_certificate(made[name]) for name in ("ca.pem", "server.pem"))
    one.verify_directly_issued_by(by)
    names = one.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["database"]
    assert certified(tmp_path) == made
    (tmp_path / "ca.key").touch()  # as if it had been ended half way
    assert certified(tmp_path).keys() == made.keys()
    assert certified(tmp_path)["ca.pem"] != made["ca.pem"]


def test_no_secret_stands_in_a_file_or_an_argument() -> None:
    for each in (*POD["initContainers"], MANAGER):
        for variable in each["env"]:
            if "URL" in variable["name"]:
                assert variable["valueFrom"]["secretKeyRef"]
    for file in FILES:
        assert not re.search(r"://\w+:[^$@\s.]+@", file.read_text()), file


def test_the_policy_lets_in_whom_it_names_and_nobody_else() -> None:
    policy = KUBERNETES["NetworkPolicy"]["spec"]
    assert policy["podSelector"] == {}
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert all(rule["from"] and rule["ports"] for rule in policy["ingress"])
    assert all(rule["ports"] for rule in policy["egress"])


def test_probes_ask_for_what_is_served_and_no_restart_answers_an_outage_of_the_database() -> None:
    assert MANAGER["readinessProbe"]["httpGet"] == {"path": "/healthz", "port": "http", "scheme": "HTTPS"}
    assert "httpGet" not in MANAGER["livenessProbe"]
    assert "/healthz" in DOCKERFILE
    assert POD["terminationGracePeriodSeconds"] > float(
        next(each["value"] for each in MANAGER["env"] if each["name"] == "IM_DRAIN")
    )


def test_nothing_runs_as_root_or_can_become_it() -> None:
    user = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.M)[-1]
    assert int(user[0]) > 0
    assert POD["securityContext"]["runAsNonRoot"]
    assert str(POD["securityContext"]["runAsUser"]) == user[0]
    assert POD["automountServiceAccountToken"] is False
    for each in (*POD["initContainers"], MANAGER):
        assert each["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    for name in OWN:
        service = COMPOSE["services"][name]
        assert service["read_only"] and service["cap_drop"] == ["ALL"]  # noqa: PT018
        assert "no-new-privileges:true" in service["security_opt"]
    # it writes what root alone may, and is gone before anything runs that anybody could reach
    rooted = {name: each for name, each in COMPOSE["services"].items() if each.get("user", "").startswith("0")}
    assert [(name, each["network_mode"]) for name, each in rooted.items()] == [("certificates", "none")]


# of Kubernetes: what its makers mend, and some before
VERSIONS = [f"1.{minor}" for minor in range(30, int(kubernetes_validate.latest_version().split(".")[1]) + 1)]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_is_what_kubernetes_takes(version: str) -> None:
    manifests = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
    assert len(manifests) == len(KUBERNETES), "one of each kind, or tests look at the last alone"
    for each in manifests:
        kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [
        ("Deployment", "readinessProbe", "readyProbe"),
        ("Deployment", "containerPort: 50052", "containerPort: grpc"),
        ("NetworkPolicy", "policyTypes: [Ingress, Egress]", "policyTypes: Ingress"),
        ("PodDisruptionBudget", "policy/v1", "policy/v1beta9"),
    ],
)
def test_a_manifest_that_kubernetes_would_refuse_is_told(kind: str, old: str, new: str) -> None:
    text = (DEPLOY / "kubernetes.yaml").read_text()
    assert old in text
    (changed,) = [each for each in yaml.safe_load_all(text.replace(old, new)) if each["kind"] == kind]
    with pytest.raises((kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError)):
        kubernetes_validate.validate(changed, VERSIONS[-1], strict=True)


def test_images_are_of_a_version() -> None:
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.M)) == {"${BASE}"}, "one, that a digest can be given for"
    bases = re.findall(r"^ARG BASE=(\S+)$", DOCKERFILE, re.M)
    outside = [each["image"] for each in COMPOSE["services"].values() if each["image"] != "instance-manager"]
    for image in (*bases, *outside, MANAGER["image"]):
        assert re.search(r":\d+\.\d+", image), image
    (base,) = bases
    assert "-slim" in base


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_takes_the_unit_and_finds_it_well_locked(tmp_path: Path) -> None:
    unit = tmp_path / "instance-manager.service"
    unit.write_text(UNIT.replace("/opt/instance-manager/bin/imctl", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    told = [line for line in done.stderr.splitlines() if "instance-manager" in line]
    assert (done.returncode, told) == (0, [])
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=20", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    assert rated.returncode == 0, rated.stdout[-400:]
