"""Boxes that are almost right."""


def wrong_counts(count: int) -> list[str]:
    """Answers that are not this count, which is above 1, or that do not write it as a number in a box."""
    return [
        f"\\boxed{{{count + 1}}}",
        f"\\boxed{{{count - 1}}}",
        f"\\boxed{{{count}0}}",
        f"\\boxed{{0{count}}}",
        f"\\boxed{{-{count}}}",
        f"\\boxed{{+{count}}}",
        f"\\boxed{{{count}.0}}",
        f"\\boxed{{{count}e0}}",
        f"\\boxed{{{count}, {count}}}",
        f"\\boxed{{{count} {count}}}",
        f"\\boxed{{'{count}'}}",
        f"\\boxed{{[{count}]}}",
        f"\\boxed{{{{{count}}}}}",
        f"\\boxed{{{''.join(chr(0x0660 + int(digit)) for digit in str(count))}}}",
        f"\\boxed{{{count}",
        f"boxed{{{count}}}",
        f"\\boxed{{{count}}} \\boxed{{{count + 1}}}",
        f"\\boxed{{{count + 1}}} \\boxed{{{count}}}",
        f"\\boxed{{{count}}} or {count + 1} <",
        "\\boxed{}",
        "\\boxed{unknown}",
        "unknown",
        f"[{count}]",
        f'"{count}"',
    ]
