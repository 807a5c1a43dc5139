"""Draws docs/inscribed.svg, the picture of the theorem in docs/theory.md: python benchmarks/inscribed_drawing.py"""

from pathlib import Path

import torch

from lipbench.certificate import ball_radius, best_t

# Pixels per unit, and where the corner (0, 1) of the box lies.
SCALE, LEFT, TOP = 300, 240, 60
SIZE = (760, 480)
# A half-plane is adversarial: <NORMAL, z> >= LEVEL. h(z) = LEVEL - <NORMAL, z> is 1-Lipschitz.
NORMAL, LEVEL = (-0.6, 0.8), 0.56
# The image, the nearest adversarial image of the box, and how far behind it the centre lies.
X, NEAREST, BEHIND = (0.04, 0.35), (0.0, 0.70), 0.98
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#777777"


def place(z: tuple[float, float]) -> tuple[float, float]:
    return LEFT + SCALE * z[0], TOP + SCALE * (1 - z[1])


def along(start: tuple[float, float], length: float, direction: tuple[float, float]) -> tuple[float, float]:
    return start[0] + length * direction[0], start[1] + length * direction[1]


def circle(centre: tuple[float, float], radius: float, look: str) -> str:
    x, y = place(centre)
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{SCALE * radius:.1f}" {look}/>'


def line(a: tuple[float, float], b: tuple[float, float], look: str) -> str:
    (x1, y1), (x2, y2) = place(a), place(b)
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {look}/>'


def word(
    at: tuple[float, float], text: str, color: str, right: float = 8, down: float = 4, anchor: str = "start"
) -> str:
    x, y = place(at)
    look = f'fill="{color}" font-size="14" text-anchor="{anchor}"'
    return f'<text x="{x + right:.1f}" y="{y + down:.1f}" {look}>{text}</text>'


def dot(at: tuple[float, float], color: str) -> str:
    return circle(at, 4 / SCALE, f'fill="{color}"')


def drawing() -> str:
    """The SVG. Its radii are computed, not drawn by hand."""
    depth = LEVEL - NORMAL[0] * X[0] - NORMAL[1] * X[1]
    centre = along(NEAREST, -BEHIND, NORMAL)
    x, q, radius = (torch.tensor([value], dtype=torch.float64) for value in (X, centre, BEHIND))
    rho = float(ball_radius(x, q, radius, best_t(x, q - x, radius)))
    foot = along(X, depth, NORMAL)
    slope = (NORMAL[1], -NORMAL[0])
    a, b = along(NEAREST, -1.2, slope), along(NEAREST, 1.0, slope)
    corners = " ".join(f"{u:.1f},{v:.1f}" for u, v in map(place, (a, b, along(b, 1, NORMAL), along(a, 1, NORMAL))))
    (left, top), (width, height) = place((0, 1)), SIZE
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<polygon points="{corners}" fill="{ORANGE}" fill-opacity="0.15"/>',
        line(a, b, f'stroke="{ORANGE}" stroke-width="2"'),
        circle(centre, BEHIND, f'fill="{BLUE}" fill-opacity="0.07" stroke="{BLUE}" stroke-width="2"'),
        f'<rect x="{left}" y="{top}" width="{SCALE}" height="{SCALE}" fill="none" stroke="black" stroke-width="2"/>',
        circle(X, depth, f'fill="none" stroke="{GREY}" stroke-width="1.5" stroke-dasharray="5 4"'),
        circle(X, rho, 'fill="none" stroke="black" stroke-width="1.5"'),
        line(centre, NEAREST, f'stroke="{BLUE}" stroke-width="1" stroke-dasharray="2 3"'),
        *(dot(at, color) for at, color in ((X, "black"), (centre, BLUE), (NEAREST, ORANGE), (foot, GREY))),
        word((1, 0.94), "box of images", "black", right=-8, anchor="end"),
        word(X, "x", "black"),
        word(centre, "centre q of a ball of radius h(q)", BLUE, down=5),
        word(NEAREST, "nearest adversarial image", ORANGE, right=-10, down=-6, anchor="end"),
        word(along(X, depth, (0.6, -0.8)), "|f(x)|", GREY, right=-6, down=-10, anchor="end"),
        word(along(X, rho, (0.6, -0.8)), "rho", "black", right=6, down=6),
        word((-0.45, 0.95), "adversarial", ORANGE),
        "</svg>\n",
    ]
    return "\n".join(parts)


if __name__ == "__main__":
    (Path(__file__).parents[1] / "docs" / "inscribed.svg").write_text(drawing(), encoding="utf-8")
