import re
import tomllib
from pathlib import Path

import pytest

from infodcl_dist.base.stack import (
    OPTIONAL_PINS,
    PAIRS,
    PINS,
    Finding,
    check_versions,
    describe_machine,
    installed_versions,
    try_operator,
)

FITTING = {
    "python": "3.11.7",
    "torch": "2.13.0+cpu",
    "fbgemm-gpu-cpu": "1.8.0",
    "torchrec": "1.8.0",
    "torchmetrics": "1.0.3",
    "tensordict": "0.15.3",
    "pyre-extensions": "0.0.32",
    "deepspeed": "0.19.8",
    "ray": "2.60.0",
    "pyarrow": "26.0.1",
}
ON_GPU = {name: version for name, version in FITTING.items() if name != "fbgemm-gpu-cpu"} | {
    "torch": "2.13.0+cu130",
    "fbgemm-gpu": "1.8.0",
    "nvidia-driver": "580.82",
}


def without(versions: dict[str, str], *names: str) -> dict[str, str]:
    return {name: version for name, version in versions.items() if name not in names}


def faults(versions: dict[str, str]) -> list[Finding]:
    return [finding for finding in check_versions(versions) if not finding.ok]


@pytest.mark.parametrize("versions", [FITTING, ON_GPU, without(FITTING, "ray"), FITTING | {"torch": "2.13.1"}])
def test_what_fits_is_left_alone(versions: dict[str, str]) -> None:
    findings = check_versions(versions)
    assert len(findings) == 10
    assert all(finding.ok and not finding.remedy for finding in findings)


def test_every_pair_fits_and_no_other() -> None:
    fitting = [
        (torch, partner)
        for torch in PAIRS
        for partner in PAIRS.values()
        if not faults(FITTING | {"torch": f"{torch}.0", "fbgemm-gpu-cpu": f"{partner}.0", "torchrec": f"{partner}.0"})
    ]
    assert fitting == [("2.13", "1.8"), ("2.12", "1.7"), ("2.11", "1.6")]


@pytest.mark.parametrize(
    ("changed", "package", "remedy"),
    [
        ({"torch": "2.15.0"}, "torch", "pip install torch==2.13.0"),
        ({"torchrec": "1.7.0"}, "torchrec", "pip install --no-deps 'torchrec==1.8.*'"),
        ({"torchmetrics": "1.9.0"}, "torchmetrics", "pip install 'torchmetrics==1.0.3'"),
        ({"deepspeed": "0.18.0"}, "deepspeed", "pip install 'deepspeed==0.19.8'"),
        ({"ray": "2.6.1"}, "ray", "pip install 'ray==2.60.*'"),
        ({"pyarrow": "260.0"}, "pyarrow", "pip install 'pyarrow==26.*'"),
        ({"python": "3.9.18"}, "python", "launch/setup.sh"),
        (
            {"fbgemm-gpu-cpu": "1.7.0"},
            "fbgemm-gpu-cpu",
            "pip uninstall -y fbgemm-gpu-cpu && pip install --no-deps fbgemm-gpu-cpu==1.8.0",
        ),
        (
            {"fbgemm-gpu": "1.8.0"},
            "fbgemm",
            "pip uninstall -y fbgemm-gpu-cpu fbgemm-gpu && pip install --no-deps fbgemm-gpu-cpu==1.8.0",
        ),
    ],
)
def test_each_fault_is_named_with_the_command_that_mends_it(changed: dict[str, str], package: str, remedy: str) -> None:
    (fault,) = faults(FITTING | changed)
    assert fault.package == package
    assert remedy in fault.remedy


def test_both_builds_on_a_gpu_machine_keep_the_cuda_one() -> None:
    (fault,) = faults(ON_GPU | {"fbgemm-gpu-cpu": "1.8.0"})
    assert "alone" in fault.needed
    assert fault.remedy.endswith("pip install --no-deps fbgemm-gpu==1.8.0")


def test_the_cuda_build_of_fbgemm_does_not_fit_a_cpu_torch() -> None:
    (fault,) = faults(ON_GPU | {"torch": "2.13.0+cpu"})
    assert fault.package == "fbgemm-gpu"
    assert "CPU build" in fault.needed


def test_the_cpu_build_of_fbgemm_does_not_fit_a_cuda_torch_where_there_is_a_driver() -> None:
    mixed = without(ON_GPU, "fbgemm-gpu") | {"fbgemm-gpu-cpu": "1.8.0"}
    (fault,) = faults(mixed)
    assert fault.package == "fbgemm-gpu-cpu"
    assert "CUDA build" in fault.needed
    assert fault.remedy == "pip uninstall -y fbgemm-gpu-cpu && pip install --no-deps fbgemm-gpu==1.8.0"
    assert faults(without(mixed, "nvidia-driver")) == []
    assert faults(FITTING | {"nvidia-driver": "580.82"}) == []


@pytest.mark.parametrize("name", sorted(without(FITTING, "python", "ray")))
def test_what_is_missing_is_a_fault(name: str) -> None:
    (fault,) = faults(without(FITTING, name))
    assert (fault.package, fault.found) == (name, "missing")
    assert name in fault.remedy


def test_pins_are_those_of_pyproject() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    declared = set(project["project"]["dependencies"]) | {need for extra in extras.values() for need in extra}
    (newest, partner), *_ = PAIRS.items()
    expected = {
        f"torch=={newest}.0",
        f"torch=={newest}.0,!={newest}.0+cpu",
        f"fbgemm-gpu=={partner}.0",
        f"fbgemm-gpu-cpu=={partner}.0",
    }
    expected |= {name if pin == "*" else f"{name}=={pin}" for name, pin in PINS.items()}
    expected |= {f"{name}[tune]=={pin}" for name, pin in OPTIONAL_PINS.items()}
    assert expected <= declared
    assert project["dependency-groups"]["torchrec"] == [f"torchrec=={partner}.0"]


def test_older_stacks_of_the_set_up_fit() -> None:
    script = (Path(__file__).parents[3] / "launch/setup.sh").read_text(encoding="utf-8")
    older = re.findall(r"^    ([0-9.]+)\) fbgemm=([0-9.]+) torchrec=\(torchrec==([0-9.]+)\)", script, re.MULTILINE)
    assert [minor for minor, _, _ in older] == list(PAIRS)[1:]
    for minor, fbgemm, torchrec in older:
        changed = {"torch": f"{minor}.0", "fbgemm-gpu-cpu": fbgemm, "torchrec": torchrec}
        assert faults(FITTING | changed) == []


def test_this_environment_fits_and_its_operator_runs() -> None:
    assert faults(installed_versions()) == []
    assert try_operator() == ""


def test_a_failing_operator_gives_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infodcl_dist.base.stack._OPERATOR", "raise OSError('symbol missing')")
    assert try_operator() == "OSError: symbol missing"


def test_the_machine_is_described_in_words() -> None:
    facts = describe_machine()
    assert list(facts) == ["cores", "memory", "NVIDIA driver", "devices", "back ends"]
    assert "gloo" in facts["back ends"]
