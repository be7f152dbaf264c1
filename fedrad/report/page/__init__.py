"""``fedrad report``: runs as one HTML file that needs nothing else.

files.py     what a run directory holds, read and named
series.py    figures over several runs: means, intervals, lines of a plot
pictures.py  SVG that follows the page's colours, with a title for screen readers
drawings.py  which pictures there are
reading.py   the words: for a lawyer, for a radiologist, and the loud ones
page.py      all of it into template.html
"""
