import re

import pytest

from templora_memory.apps.roleplay.charts import Series, chart


def test_a_chart_says_in_words_what_it_shows():
    drawn = chart("T", [Series("a", [4.0, 2.0, 1.0])], x="step", caption="From 4 to 1.", log=True)
    assert 'role="img" aria-label="From 4 to 1."' in drawn
    points = re.search(r'points="([^"]*)"', drawn)[1].split()
    heights = [float(point.split(",")[1]) for point in points]
    assert heights == sorted(heights)  # falling values go down, so y grows
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1], abs=0.2)  # log
