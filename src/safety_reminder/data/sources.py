"""Where the benchmarks' files are published, and under which licence.

``sha256`` is None where the published checksum is not known here. Addresses name a revision where one is known. The
``note`` of a source says what it leaves out: mostly image archives on drives that need a browser. VLGuard is not here:
the hub gives out its copy on request only.
"""

from __future__ import annotations

from dataclasses import dataclass

from safety_reminder.data.benchmarks.mm_safetybench import SCENARIOS


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file: its address, and its path in the folder of the data set. ``unpack``: a zip archive to be unpacked."""

    url: str
    path: str
    sha256: str | None = None
    unpack: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """The files of a data set. ``note``: what else it needs."""

    files: tuple[RemoteFile, ...]
    licence: str
    note: str = ""


def _github(repository: str, revision: str, sums: dict[str, str | None]) -> tuple[RemoteFile, ...]:
    """Files of a repository at a revision: path → checksum."""
    base = f"https://raw.githubusercontent.com/{repository}/{revision}"
    return tuple(RemoteFile(f"{base}/{path}", path, sha256) for path, sha256 in sums.items())


def _hub(repository: str, *paths: str) -> tuple[RemoteFile, ...]:
    """Files of a data set on the Hugging Face hub."""
    return tuple(
        RemoteFile(f"https://huggingface.co/datasets/{repository}/resolve/main/{path}", path) for path in paths
    )


_FIGSTEP_IMAGES = [
    f"data/images/{subset}/query_ForbidQI_{category}_{task}_6.png"
    for subset, tasks in (("SafeBench", 50), ("SafeBench-Tiny", 5))
    for category in range(1, 11)
    for task in range(1, tasks + 1)
]

SOURCES = {
    "figstep": Source(
        _github(
            "CryptoAILab/FigStep",
            "main",
            dict.fromkeys(["data/question/safebench.csv", "data/question/SafeBench-Tiny.csv", *_FIGSTEP_IMAGES]),
        ),
        licence="MIT",
    ),
    "mm_safetybench": Source(
        _github(
            "isXinLiu/MM-SafetyBench", "HEAD", dict.fromkeys(f"data/processed_questions/{s}.json" for s in SCENARIOS)
        ),
        licence="CC BY-NC 4.0",
        note="the images are in the archive that its README links to; unpack them to data/imgs",
    ),
    "mmvet": Source(
        (
            RemoteFile(
                "https://github.com/yuweihao/MM-Vet/releases/download/v1/mm-vet.zip", "mm-vet.zip", unpack=True
            ),
        ),
        licence="CC BY-NC 4.0",
    ),
    "advbench": Source(
        _github(
            "llm-attacks/llm-attacks",
            "main",
            {
                "data/advbench/harmful_behaviors.csv":
                "6cd1a5c63c07610d7eb67307772ee5606017ee950b5770ab288a2c487489d3e1",
            },
        ),
        licence="MIT",
    ),
    "xstest": Source(
        _github(
            "paul-rottger/xstest",
            "d7bb5bd738c1fcbc36edd83d5e7d1b71a3e2d84d",
            {"xstest_prompts.csv": "11783fb294ed017473ee53c207d71f2161c7672c8d0b037501e78387f801cb5a"},
        ),
        licence="CC BY 4.0",
    ),
    "harmbench": Source(
        _github(
            "centerforaisafety/HarmBench",
            "c0423b952435fcc8467108d8f25962dbae5b7de2",
            {
                "data/behavior_datasets/harmbench_behaviors_text_all.csv":
                "8d81accedd38eaaf8b760618622bb888417d1fd0c86eba65c427a16f1cbb4afc",
                "data/behavior_datasets/harmbench_behaviors_multimodal_all.csv": None,
            },
        ),
        licence="MIT",
        note="modality=multimodal also needs the repository's folder data/multimodal_behavior_images",
    ),
    "spa_vl": Source(
        _hub("sqrti/SPA-VL", "test/harm-00000-of-00001.parquet", "test/help-00000-of-00001.parquet"),
        licence="CC BY 4.0",
    ),
    "vlsafe": Source(
        _hub("YangyiYY/LVLM_NLF", "VLSafe/harmlessness_examine.jsonl"),
        licence="none stated",
        note="the images are COCO's; put or link train2017 beside the file, in VLSafe/train2017",
    ),
    "jailbreakv": Source(
        _hub(
            "JailbreakV-28K/JailBreakV-28k",
            "JailBreakV_28K/JailBreakV_28K.csv",
            "JailBreakV_28K/mini_JailBreakV_28K.csv",
        ),
        licence="MIT",
        note="the images are in the archive that its card links to; unpack them to JailBreakV_28K",
    ),
    "mossbench": Source(
        _github(
            "xirui-li/MOSSBench",
            "8d68b0614b39d8990a508e03d99975832f399db2",
            dict.fromkeys(
                ["data/images_information/information.json", *(f"data/images/{n}.png" for n in range(1, 301))]
            ),
        ),
        licence="CC BY-SA 4.0",
    ),
    "siuo": Source(
        _github("sinwang20/SIUO", "f992c275ac49042a82833b99c2fca3f538c894b2", {"data/siuo_gen.json": None}),
        licence="none stated in the repository",
        note="the images are in the archive that its card on the hub links to; unpack them to data/images",
    ),
    "mme": Source(
        (
            RemoteFile(
                "https://huggingface.co/datasets/darkyarding/MME/resolve/main/MME_Benchmark_release_version.zip",
                "MME_Benchmark_release_version.zip",
                unpack=True,
            ),
        ),
        licence="not known here; see its authors' page",
    ),
    "visual_adv": Source(
        _github(
            "Unispac/Visual-Adversarial-Examples-Jailbreak-Large-Language-Models",
            "main",
            {
                "adversarial_images/clean.jpeg": "52cea1aac7c702fd495ae69c69937e8b8f4a656a499d6191e91947e0139fa7f5",
                "adversarial_images/prompt_constrained_16.bmp":
                "0115e14ad0496d2669cb8c275dfa3a0f445c3851473e5df97b8d6f13ff3888ed",
                "adversarial_images/prompt_constrained_32.bmp": None,
                "adversarial_images/prompt_constrained_64.bmp": None,
                "adversarial_images/prompt_unconstrained.bmp": None,
                "harmful_corpus/manual_harmful_instructions.csv": None,
            },
        ),
        licence="none stated",
    ),
}  # fmt: skip
