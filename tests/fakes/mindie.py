#!/usr/bin/env python3
"""A stand-in for MindIE: an installation as its installer leaves it, and the daemon, a real executable.

The daemon takes no arguments. It reads the file that MIES_CONFIG_JSON_PATH names, refuses what the real one
refuses (a mode above 0640, a field of another type or out of its range, devices that are not worldSize, a
model without config.json), prints `Daemon start success!`, and answers

    GET  /v2/health/ready        on the management port
    GET  /state                  there too: what it found, for tests to look at
    POST /v1/chat/completions    on the service port
"""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SENTENCE = "I am a stand-in for MindIE, and I work."
TEMPLATE: dict[str, Any] = {
    "Version": "1.0.0",
    "ServerConfig": {
        "ipAddress": "127.0.0.1",
        "managementIpAddress": "127.0.0.2",
        "port": 1025,
        "managementPort": 1026,
        "metricsPort": 1027,
        "allowAllZeroIpListening": False,
        "maxLinkNum": 1000,
        "httpsEnabled": True,
        "tlsCaPath": "security/ca/",
        "interCommTLSEnabled": True,
        "interCommPort": 1121,
        "openAiSupport": "vllm",
        "tokenTimeout": 600,
        "e2eTimeout": 600,
    },
    "BackendConfig": {
        "backendName": "mindieservice_llm_engine",
        "modelInstanceNumber": 1,
        "npuDeviceIds": [[0, 1, 2, 3]],
        "tokenizerProcessNumber": 8,
        "multiNodesInferEnabled": False,
        "multiNodesInferPort": 1120,
        "interNodeTLSEnabled": True,
        "ModelDeployConfig": {
            "maxSeqLen": 2560,
            "maxInputTokenLen": 2048,
            "truncation": False,
            "ModelConfig": [
                {
                    "modelInstanceType": "Standard",
                    "modelName": "llama_65b",
                    "modelWeightPath": "/data/weights/llama",
                    "worldSize": 4,
                    "cpuMemSize": 5,
                    "npuMemSize": -1,
                    "backendType": "atb",
                    "trustRemoteCode": False,
                    "async_scheduler_wait_time": 120,
                }
            ],
        },
        "ScheduleConfig": {
            "templateType": "Standard",
            "templateName": "Standard_LLM",
            "cacheBlockSize": 128,
            "maxPrefillBatchSize": 50,
            "maxPrefillTokens": 8192,
            "prefillTimeMsPerReq": 150,
            "prefillPolicyType": 0,
            "decodeTimeMsPerReq": 50,
            "decodePolicyType": 0,
            "maxBatchSize": 200,
            "maxIterTimes": 512,
            "maxPreemptCount": 0,
            "supportSelectBatch": False,
            "maxQueueDelayMicroseconds": 5000,
        },
    },
}
# Field of ScheduleConfig -> its range, as the daemon checks it.
RANGES = {
    "cacheBlockSize": (1, 128),
    "maxBatchSize": (1, 819200),
    "maxPrefillTokens": (1, 4194304),
    "prefillTimeMsPerReq": (0, 1000),
    "decodeTimeMsPerReq": (0, 1000),
    "maxQueueDelayMicroseconds": (500, 1000000),
}


def install(root: Path, *versions: str, latest: str | None = None) -> Path:
    """MindIE below `root`, as below /usr/local/Ascend; the folder that MIES_INSTALL_PATH names."""
    for version in versions:
        home = root / "mindie" / version / "mindie-service"
        (home / "bin").mkdir(parents=True)
        (home / "conf").mkdir()
        (home.parent / "version.info").write_text(
            f"Ascend-mindie : MindIE {version}\nmindie-service: {version}\nPlatform : aarch64\n"
        )
        (home / "conf/config.json").write_text(json.dumps(TEMPLATE, indent=4))
        (home / "set_env.sh").write_text(
            "export MIES_INSTALL_PATH=/elsewhere MINDIE_LOG_TO_STDOUT=0\n"
            f"export SOURCED=${{SOURCED}}service:{version}\n"
        )
        daemon = home / "bin/mindieservice_daemon"
        daemon.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).resolve()}" "$@"\n')
        daemon.chmod(0o755)
    for name in ("ascend-toolkit", "nnal/atb"):
        (root / name).mkdir(parents=True)
        # As the one of ATB, it would read arguments that it finds, and it ends with a failing test.
        (root / name / "set_env.sh").write_text(
            f'[ $# -gt 0 ] && exit 9\nexport LD_LIBRARY_PATH="{root / name}:$LD_LIBRARY_PATH"\n'
            f'export SOURCED="${{SOURCED}}{name} "\n[ -n "" ]\n'
        )
    (root / "mindie/latest").symlink_to(latest or versions[-1])
    return root / "mindie/latest/mindie-service"


def refusal(path: Path, configuration: dict[str, Any]) -> str | None:  # noqa: C901 - a list of rules
    """What the daemon says against its configuration."""
    if stat.S_IMODE(path.stat().st_mode) & ~0o640:
        return f"The permission of {path} should not be above 640."
    backend = configuration["BackendConfig"]
    schedule, deploy = backend["ScheduleConfig"], backend["ModelDeployConfig"]
    model = deploy["ModelConfig"][0]
    for name, known in TEMPLATE["BackendConfig"]["ScheduleConfig"].items():
        if type(schedule.get(name)) is not type(known):
            return f"The type of scheduleParam.{name} is not right."
    for name, (least, most) in RANGES.items():
        if not least <= schedule[name] <= most:
            return f"scheduleParam.{name} [{schedule[name]}] is not in [{least}, {most}]"
    if schedule["maxPrefillBatchSize"] > schedule["maxBatchSize"]:
        return "maxPrefillBatchSize must not be above maxBatchSize"
    if (
        schedule["maxPrefillTokens"] < deploy["maxInputTokenLen"]
        or deploy["maxInputTokenLen"] > deploy["maxSeqLen"]
    ):
        return "maxPrefillTokens and maxSeqLen must not be below maxInputTokenLen"
    if len(backend["npuDeviceIds"][0]) != model["worldSize"]:
        return "The size of npuDeviceIds is not worldSize"
    sizes = [model.get(key, 1) for key in (("pp", "tp") if "pp" in model else ("dp", "tp"))]
    if "tp" in model and sizes[0] * sizes[1] != model["worldSize"]:
        return f"{sizes} does not multiply to worldSize {model['worldSize']}"
    if not (Path(model["modelWeightPath"]) / "config.json").is_file():
        return f"{model['modelWeightPath']} has no config.json"
    if configuration["ServerConfig"]["httpsEnabled"]:
        return "the certificates are missing"
    return None


def serve(address: str, port: int, pages: dict[str, object]) -> None:
    """Answer each path with its JSON."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            page = pages.get(self.path)
            text = json.dumps(page).encode()
            self.send_response(200 if page is not None else 404)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_POST = do_GET  # noqa: N815 - the name is http.server's

        def log_message(self, *args: object) -> None:
            pass

    threading.Thread(target=ThreadingHTTPServer((address, port), Handler).serve_forever, daemon=True).start()


def main() -> int:
    path = Path(os.environ["MIES_CONFIG_JSON_PATH"])
    configuration = json.loads(path.read_text())
    said = refusal(path, configuration)
    if said is not None:
        print(said)
        print("ERR: Failed to init endpoint! Please check the service log or console output.")
        return 1
    weights = Path(configuration["BackendConfig"]["ModelDeployConfig"]["ModelConfig"][0]["modelWeightPath"])
    state = {
        "configuration": configuration,
        "environment": dict(os.environ),
        "arguments": sys.argv[1:],
        "folder": str(Path.cwd()),
        "pid": os.getpid(),
        "files": {p.name: p.is_symlink() for p in weights.iterdir()},
        "model": json.loads((weights / "config.json").read_text()),
    }
    server = configuration["ServerConfig"]
    message = {"message": {"role": "assistant", "content": SENTENCE}}
    serve(server["ipAddress"], server["port"], {"/v1/chat/completions": {"choices": [message]}})
    pages: dict[str, object] = {"/v2/health/ready": {"status": "ready"}, "/state": state}
    serve(server["managementIpAddress"], server["managementPort"], pages)
    print("Daemon start success!", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    return 0


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    sys.exit(main())
