"""The figures of all parts as one page of Markdown; a part that is missing leaves its section out."""

from typing import Any


def table(whole: dict[str, Any]) -> str:
    parts = [
        head(whole),
        network(whole),
        profile(whole),
        views(whole),
        loader(whole),
        loop(whole),
        parity(whole),
        waits(whole),
        resume(whole),
        rest(whole),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def rows(names: list[str], values: list[list[Any]]) -> str:
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    return "\n".join(lines + [f"| {' | '.join('' if v is None else str(v) for v in row)} |" for row in values])


def head(whole: dict[str, Any]) -> str:
    facts = whole.get("facts", {})
    named = {key: value for key, value in facts.items() if key not in ("wall_s", "failed")}
    kind = "rehearsal, few repeats" if whole.get("rehearsal") else "in earnest"
    return f"# GPU benchmark ({kind}; {whole['wall_s']} s)\n\n" + rows(["what", "value"], [[key, value] for key, value in named.items()])


def network(whole: dict[str, Any]) -> str:
    found, peak = whole.get("network", {}), whole.get("facts", {}).get("matmul_tflops")
    lines = []
    for what in ("resenc", "unet"):
        gflop = found.get(f"{what}_gflop_crop") or whole.get("compiled", {}).get(f"{what}_gflop_crop")
        compiled = [row for part in ("compiled", "blocks") for row in whole.get(part, {}).get("rows", []) if row["network"] == what]
        for row in [*found.get(what, []), *compiled]:
            how = [row["layout"], *(key for key in ("float32_norm", "tuned") if row.get(key))]
            how += [f"compiled {row['compiled']}"] if "compiled" in row else []
            tflops = round(gflop * row["crops_s"] / 1e3, 1) if gflop and "crops_s" in row else None
            share = f"{tflops / peak:.1%}" if tflops and peak else None
            lines.append(
                [what, " ".join(how), row["batch"], row.get("ms", row.get("failed")), row.get("crops_s"), tflops, share, row.get("peak_gb")]
            )
    names = ["network", "how", "batch", "step ms", "crops/s", "TFLOP/s", "share of peak", "peak GB"]
    return "## Training step, bf16, 96³, crops on the device\n\n" + rows(names, lines) if lines else ""


def profile(whole: dict[str, Any]) -> str:
    found = {what: whole.get("network", {}).get(f"{what}_profile") for what in ("resenc", "unet")}
    lines = [[what, kind, ms, f"{ms / sum(shown.values()):.1%}"] for what, shown in found.items() if shown for kind, ms in shown.items()]
    return (
        "Where the GPU's time of such a step goes (batch 8, contiguous):\n\n" + rows(["network", "kernels", "ms", "share"], lines)
        if lines
        else ""
    )


def views(whole: dict[str, Any]) -> str:
    found = whole.get("views", {}).get("views", {})
    lines = [
        [name, v["batch"], v["ms"], v.get("graph_ms", v.get("graph_failed")), v.get("kernels"), v.get("peak_mb")]
        for name, v in found.items()
    ]
    return "## Views on the device\n\n" + rows(["view", "batch", "ms", "ms from a graph", "kernels", "MB"], lines) if lines else ""


def loader(whole: dict[str, Any]) -> str:
    found = {name: value for name, value in whole.get("loader", {}).items() if isinstance(value, dict)}
    lines = [[name, v["region_vox"], v["crops_s"], v["crops_s_core"], v["cores"], v["pinned"]] for name, v in found.items()]
    return "## Loader to device\n\n" + rows(["recipe", "region", "crops/s", "crops/s/core", "cores", "pinned"], lines) if lines else ""


def loop(whole: dict[str, Any]) -> str:
    found = whole.get("loop", {}).get("loops", {})
    if not found:
        return ""
    keys = list(next(iter(found.values())))
    return "## A real loop\n\n" + rows(["loop", *keys], [[name, *(value.get(key) for key in keys)] for name, value in found.items()])


def parity(whole: dict[str, Any]) -> str:
    found = whole.get("parity", {})
    lines = [["view", name, value if isinstance(value, str) else ", ".join(f"{k} {v:.1e}" for k, v in value.items())]
             for name, value in found.get("views", {}).items()]  # fmt: skip
    lines += [["loss", name, value if isinstance(value, str) else ", ".join(f"{k} {v[2]:.1e}" for k, v in value.items())]
              for name, value in found.get("losses", {}).items()]  # fmt: skip
    lines += [["graph", name, "the same bits" if value is True else value] for name, value in found.get("graphs", {}).items()]
    text = "Views: largest absolute difference (masks: share of voxels). Losses: relative difference."
    return f"## Device beside CPU, float32\n\n{text}\n\n" + rows(["kind", "name", "differences"], lines) if lines else ""


def waits(whole: dict[str, Any]) -> str:
    lines = [[kind, stage, where] for kind, stages in whole.get("syncs", {}).get("waits", {}).items() for stage, where in stages.items()]
    return "## Where a step waits for the device\n\n" + rows(["recipe", "stage", "waits"], lines) if lines else ""


def resume(whole: dict[str, Any]) -> str:
    found = whole.get("resume", {}).get("rows", {})
    lines = [[name, v["again"], v["resumed"], ", ".join(v["not_deterministic"])] for name, v in found.items()]
    return "## The same bytes\n\n" + rows(["run", "a second run", "an interrupted run", "not deterministic"], lines) if lines else ""


def rest(whole: dict[str, Any]) -> str:
    failed = [f"- {name}: {part['failed']}" for name, part in whole.items() if isinstance(part, dict) and "failed" in part]
    walls = ", ".join(f"{name} {part['wall_s']}" for name, part in whole.items() if isinstance(part, dict) and "wall_s" in part)
    shown = [line for name in ("views", "loader") for line in whole.get("processor", {}).get(name, [])]
    text = f"Seconds: {walls}." + ("\n\nFailed:\n\n" + "\n".join(failed) if failed else "")
    return text + ("\n\n## On one core of the processor\n\n```\n" + "\n".join(shown) + "\n```" if shown else "")
