"""What the machine and the image bring: compilers, CUDA toolkits, drivers, wheels that do not go together."""

from __future__ import annotations

from farspan.engines.logs.findings import Confidence, Severity
from farspan.engines.logs.pattern import compile_pattern
from farspan.engines.logs.rule import Diagnosis, Rule, RuleMatch, known
from farspan.engines.logs.server_state import ServerState

_NVCC = compile_pattern(
    r"Could not find nvcc|No such file or directory: '(?P<path>[^']*nvcc)'|CUDA_HOME environment "
    r"variable is not set"
    r"|(?:/bin/)?(?:ba)?sh: (?:\d+: |line \d+: )?(?P<shell>\S*nvcc): (?:command )?not found"
    r"|Cannot find CUDA_HOME|[Uu]nable to find nvcc|nvcc.{0,20} is required|"
    r"cuda_home='(?P<home>[^']*)' doesn't exist"
)


def _no_nvcc(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis:  # noqa: ARG001
    match = rule_match.match
    path = match["shell"] or match["path"] or ""
    if path.startswith(":") or "::" in path:
        return Diagnosis(
            f"CUDA_HOME is not a path: kernels are compiled with '{path}', which begins with a "
            f"colon, so that the shell "
            "does not find nvcc. Somebody wrote CUDA_HOME like PATH "
            "(CUDA_HOME=$CUDA_HOME:/usr/local/cuda).",
            (
                f"export CUDA_HOME={path.strip(':').rpartition('/bin/')[0] or '/usr/local/cuda'} "
                f"(the bare path)",
                "look for the line in ~/.bashrc, a module file or the Dockerfile that appends to it",
            ),
        )
    fix = [
        "install the CUDA toolkit of torch's own CUDA version (`python -c 'import torch; "
        "print(torch.version.cuda)'`), and "
        "set CUDA_HOME to it; an image whose tag says -devel has it, -runtime and -base have not",
    ]
    fix.append(
        "or install flashinfer-cubin and flashinfer-jit-cache of the installed FlashInfer's version: "
        "nothing is compiled then"
    )
    if rule_match.raised_in("sampling", "topk_topp_sampler.py", "flashinfer_sample"):
        fix.append("where only sampling needs it (vLLM): VLLM_USE_FLASHINFER_SAMPLER=0")
    return Diagnosis(
        "There is no nvcc: FlashInfer (or another kernel library) compiles its kernels when the "
        "server starts, and the "
        "image or environment has no CUDA toolkit.",
        tuple(fix),
    )


NO_NVCC = Rule(
    id="no-nvcc",
    means="Kernels must be compiled, and there is no CUDA toolkit, or CUDA_HOME does not name it.",
    severity=Severity.ERROR,
    pattern=_NVCC,
    explain=_no_nvcc,
    sources=("vllm-project/vllm#49497", "vllm-project/vllm#36077", "flashinfer flashinfer/jit/cpp_ext.py"),
)

_ARCH = compile_pattern(
    r"ptxas (?:fatal|error)\s*: Value '(?P<ptxas>sm_\w+)' is not defined|is not defined for option "
    r"'gpu-name'"
    r"|nvcc fatal\s*: Unsupported gpu architecture '(?P<nvcc>compute_\w+)'|Unsupported \.version \d"
    r"|ptxas .{0,60}Unsupported \.target '(?P<target>sm_\w+)'|SM \S+ requires CUDA"
    r"|FlashInfer requires GPUs with sm\d+|No supported CUDA architectures found for major versions|"
    r"requires CUDA (?:version )?>?= "
    r"?\d+\.\d+.{0,60}sm"
)


def _arch_unknown(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis:  # noqa: ARG001
    match = rule_match.match
    arch = match["ptxas"] or match["nvcc"] or match["target"] or ""
    text = rule_match.message.text
    named = f" ({arch})" if arch else ""
    if "requires GPUs with sm" in text:
        return Diagnosis(
            "FlashInfer found no architecture it can compile for: the CUDA toolkit (or torch) here is "
            "older than this GPU, so that "
            "its architecture is left out, an architecture list in the environment names another GPU, or "
            "the GPU is older than "
            "Turing.",
            (
                "unset FLASHINFER_CUDA_ARCH_LIST and TORCH_CUDA_ARCH_LIST, or let them name this GPU",
                "a toolkit and an image that know it: CUDA 12.8 or later for Blackwell (sm_100, sm_120), "
                "13.0 for sm_121",
                "GPUs before Turing: another attention backend, and VLLM_USE_FLASHINFER_SAMPLER=0 (vLLM) "
                "or --sampling-backend "
                "pytorch (SGLang)",
            ),
            Confidence.STRONG,
        )
    if "ptxas" in text or "Unsupported .version" in text:
        return Diagnosis(
            f"The ptxas that comes with Triton is older than this GPU{named}: it cannot make code for it.",
            (
                "TRITON_PTXAS_PATH=/usr/local/cuda/bin/ptxas, of a CUDA toolkit that knows the GPU: "
                "12.8 or later for "
                "Blackwell (sm_100, sm_120), 13.0 or later for sm_103, sm_110 and sm_121",
                "or a newer image, whose Triton brings a ptxas of that CUDA",
            ),
        )
    return Diagnosis(
        f"The CUDA toolkit that compiles kernels here does not know this GPU's architecture{named}: "
        f"it is older than the "
        "GPU (or so new that the GPU was dropped).",
        (
            "install a toolkit that knows it (12.8 or later for Blackwell, 13.0 for sm_103, sm_110, "
            "sm_121; before 13.0 for "
            "Volta and older), set CUDA_HOME to it, and empty ~/.cache/flashinfer",
            "or prebuilt kernels: flashinfer-cubin and flashinfer-jit-cache of the installed "
            "FlashInfer's version",
            "TORCH_CUDA_ARCH_LIST or FLASHINFER_CUDA_ARCH_LIST, where set, must name this GPU",
        ),
    )


ARCH_UNKNOWN = Rule(
    id="compiler-too-old",
    means="The compiler of the image (ptxas, nvcc) does not know the GPU's architecture.",
    severity=Severity.ERROR,
    pattern=_ARCH,
    explain=_arch_unknown,
    sources=(
        "triton-lang/triton#8539",
        "gpustack/gpustack#4372",
        "flashinfer flashinfer/compilation_context.py",
    ),
)

_LIBRARY = compile_pattern(
    r"(?P<library>lib[\w+-]+)\.so(?:\.(?P<number>\d+))?[\d.]*: cannot open shared object file"
    r"|undefined symbol: (?P<symbol>\w+)|DLL load failed|version `(?P<glibc>(?:GLIBC|GLIBCXX|"
    r"CXXABI)_[\d.]+)' not found"
    r"|Could not load any common_ops library|CXXABI_[\d.]+' not found"
)
_CUDA_LIBRARIES = (
    "libcudart", "libnvrtc", "libcublas", "libcusparse", "libcufft", "libcusolver", "libcudnn", "libnccl", "libcurand",
    "libcupti", "libnvJitLink", "libnvjitlink",
)  # fmt: skip


def _library_missing(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis:
    match = rule_match.match
    if "common_ops" in rule_match.message.text:
        # What was tried stands below that line: the library that is missing says more.
        tried = (_LIBRARY.search(error.text) for error in server_state.tracebacks.exceptions)
        match = next((one for one in tried if one is not None and one["library"] is not None), match)
    library, number = match["library"], match["number"]
    package = next(
        (
            name
            for name in ("sgl_kernel", "flashinfer", "flash_attn", "vllm_flash_attn", "vllm", "torchvision", "deep_ep",
                         "deep_gemm", "xformers")
            if rule_match.raised_in(f"/{name}/", f"{name}/") or name in rule_match.message.text
        ),
        "sgl_kernel" if "common_ops" in rule_match.message.text else "",
    )  # fmt: skip
    who = package or "a package with compiled code"
    same = (
        "install all of one build: torch, the engine and its kernel packages for the same CUDA, in a "
        "fresh environment (the "
        "package index or wheel name says cu126, cu128, cu130 ...), or take the engine's official image"
    )
    if match["glibc"] is not None:
        return Diagnosis(
            f"This system's C library is older than the wheel of {who} needs ({match['glibc']}).",
            (
                "take the engine's official image, or a newer distribution",
                "or build that package from source here",
            ),
        )
    if library is not None and library == "libcuda":
        return Diagnosis(
            "libcuda.so is the driver's own library, and it is not in the container: the GPU was not "
            "passed to it.",
            (
                "docker: --gpus all with nvidia-container-toolkit installed; Kubernetes: "
                "resources.limits nvidia.com/gpu",
            ),
        )
    if library is not None and library.startswith(_CUDA_LIBRARIES):
        built = f" for CUDA {number}" if number and library in ("libcudart", "libnvrtc", "libcublas") else ""
        fix = [same]
        if package == "sgl_kernel":
            fix.append(
                "SGLang: `pip install --force-reinstall sgl-kernel` (sglang-kernel in newer "
                "versions) of torch's CUDA"
            )
        return Diagnosis(
            f"The wheel of {who} was built{built} and {library}.so{f'.{number}' if number else ''} "
            f"is not here: torch in this "
            "environment is of another CUDA version.",
            tuple(fix),
        )
    if library is not None:
        return Diagnosis(
            f"{library}.so, which {who} needs, is not in this system.",
            (
                "install the distribution's package that has it (`apt-file search`), or take the "
                "engine's official image",
            ),
            Confidence.STRONG,
        )
    if package == "sgl_kernel" and match["symbol"] is None:
        return Diagnosis(
            "The package sgl_kernel has no library that loads here: its wheel is of another CUDA version than "
            "torch's, or it has no "
            "kernels for this GPU; the details below the line say which.",
            (
                same,
                "`pip install --force-reinstall sgl-kernel` (sglang-kernel in newer versions) of "
                "torch's CUDA version",
            ),
        )
    return Diagnosis(
        f"The wheel of {who} was built for another version of torch: a function it calls is not there.",
        (
            same,
            f"reinstall that package for the installed torch: pip install --force-reinstall "
            f"--no-deps {package or 'NAME'}",
        ),
    )


LIBRARY_MISSING = Rule(
    id="wheels-do-not-match",
    means="A compiled package was built for another CUDA, torch or C library than the one here.",
    severity=Severity.ERROR,
    pattern=_LIBRARY,
    explain=_library_missing,
    sources=("sgl-project/sglang sgl_kernel/load_utils.py", "vllm-project/vllm#13047"),
)

_PACKAGE = compile_pattern(
    r"ModuleNotFoundError: No module named '(?P<module>[\w.]+)'"
    r"|ImportError: (?:Please install|.{0,80}is not installed|.{0,100}please install|.{0,100}pip install)"
    r" ?(?P<what>[\w.\[\]<>=~-]{0,60})"
)


def _package_missing(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis | None:
    if server_state.ready is not None and not server_state.died_itself:
        return None
    name = rule_match.match["module"] or ""
    said = (
        f"Python has no module {name}"
        if name
        else f"A package is missing ({rule_match.message.text.strip()[:200]})"
    )
    command = (
        f": pip install {name.partition('.')[0]} (the distribution may be called otherwise)" if name else ""
    )
    return Diagnosis(
        f"{said} in the environment the engine runs in.",
        (
            f"install it there{command}; in a container, build an image on the engine's own",
            "if it is a part of the engine or of transformers, the two are of different versions: "
            "reinstall the engine",
        ),
        Confidence.STRONG,
    )


PACKAGE_MISSING = Rule(
    id="package-missing",
    means="A Python package the engine or the model needs is not installed.",
    severity=Severity.ERROR,
    pattern=_PACKAGE,
    explain=_package_missing,
    sources=("Python", "vllm model_executor/layers/quantization"),
    general=True,
)

_DRIVER = compile_pattern(
    r"Error (?P<code>802|803|804|999|35|36): |cudaErrorSystemDriverMismatch|"
    r"cudaErrorCompatNotSupportedOnDevice"
    r"|cudaErrorSystemNotReady|system has unsupported display driver|forward compatibility was attempted"
    r"|NVIDIA driver on your system is too old|CUDA driver version is insufficient|unsatisfied "
    r"condition: cuda"
    r"|system not yet initialized|provided PTX was compiled with an unsupported toolchain"
)


def _driver(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis:  # noqa: ARG001
    text, code = rule_match.message.text, rule_match.match["code"]
    if code == "803" or "DriverMismatch" in text or "unsupported display driver" in text:
        return Diagnosis(
            "CUDA Error 803: the process loads a libcuda of another version than the host's driver. "
            "Nearly always the "
            "image's compat libraries (/usr/local/cuda/compat) come first on the library path.",
            (
                "take compat off the path: `ldconfig -p | grep libcuda` inside the container shows "
                "it; remove "
                "/etc/ld.so.conf.d/*compat* and run ldconfig, or unset LD_LIBRARY_PATH, so that the "
                "driver's own "
                "libcuda.so.1 (in /usr/lib/x86_64-linux-gnu) is found first",
                "or update the driver on the host to the version the image's compat libraries are for",
                "vLLM's newer images: VLLM_ENABLE_CUDA_COMPATIBILITY must not be set where the "
                "driver is new enough",
            ),
        )
    if code == "802" or "SystemNotReady" in text or "system not yet initialized" in text:
        return Diagnosis(
            "CUDA Error 802: GPUs behind NVSwitch (HGX, DGX) work only while the fabric manager "
            "runs, and it does not, or "
            "is of another version than the driver.",
            (
                "on the host: systemctl start nvidia-fabricmanager, of exactly the driver's version",
                "`nvidia-smi -q | grep -A3 Fabric` must say Completed",
            ),
        )
    if code == "804" or "CompatNotSupported" in text or "forward compatibility" in text:
        return Diagnosis(
            "The image brings CUDA compatibility libraries, which work on data-centre GPUs only, and "
            "this GPU is none: the "
            "driver of the host is older than the CUDA of the image.",
            (
                "update the driver on the host; compat libraries then are not needed",
                "or an image built for an older CUDA, such as one whose tag says cu126 or cu128",
            ),
        )
    if code == "999":
        return Diagnosis(
            "CUDA Error 999, unknown: the driver's state is broken, most often after a suspend or a "
            "driver update.",
            (
                "reboot, or reload nvidia_uvm (rmmod nvidia_uvm; modprobe nvidia_uvm)",
                "`nvidia-smi` must work first",
            ),
            Confidence.STRONG,
        )
    return Diagnosis(
        "The GPU driver of this machine is older than the CUDA the image was built with.",
        (
            "update the driver on the host (the container's own libraries cannot help)",
            "or use an image built for an older CUDA, such as one whose tag says cu126",
        ),
    )


DRIVER = Rule(
    id="driver-too-old",
    means="The GPU driver and the image's CUDA do not go together.",
    severity=Severity.ERROR,
    pattern=_DRIVER,
    explain=_driver,
    sources=("vllm-project/vllm#1772", "vllm-project/vllm#5635", "CUDA runtime API: cudaError_t"),
)

RULES: tuple[Rule, ...] = (
    NO_NVCC,
    ARCH_UNKNOWN,
    DRIVER,
    known(
        "no-compiler",
        "There is no C compiler, and Triton needs one.",
        (
            r"Failed to find C compiler|Python\.h: No such file|ninja: not found|No such file or "
            r"directory: '(?:ninja|gcc|cc|c\+\+|g\+\+)'"
            r"|ninja is required to load C\+\+ extensions|InvalidCxxCompiler|No working C\+\+ "
            r"compiler found"
            r"|sh: (?:\d+: )?(?:gcc|cc|g\+\+|c\+\+): (?:command )?not found"
        ),
        "Kernels are compiled when the server starts, and the compiler (gcc, ninja) or Python's "
        "headers are not there.",
        "apt-get install -y build-essential python3-dev ninja-build, or an image that has them (a "
        "-runtime image may not)",
        "set CC to the compiler's path when there is one",
        sources=("vllm-project/vllm#2997", "sgl-project/sglang#1067", "vllm-project/vllm#14075"),
    ),
    LIBRARY_MISSING,
    known(
        "no-kernel-image",
        "The image was built without kernels for this GPU.",
        (
            r"no kernel image is available for execution on the device|hipErrorNoBinaryForGpu"
            r"|is not compatible with the current PyTorch installation|shared object initialization failed"
            r"|device kernel image is invalid|cudaErrorNoKernelImageForDevice|invalid device function"
        ),
        "The image has no kernels for this GPU's generation: the GPU is newer than the image, or too "
        "old for it.",
        "a newer image (Blackwell needs one built with CUDA 12.8 or later)",
        "on old GPUs: build the engine from source with TORCH_CUDA_ARCH_LIST set (ROCm: PYTORCH_ROCM_ARCH)",
        sources=("vllm-project/vllm#20193", "vllm-project/vllm#19906", "vllm-project/vllm#14452"),
    ),
    PACKAGE_MISSING,
)
