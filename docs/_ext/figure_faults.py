"""What is wrong with a figure as it is drawn: an axis that is not labelled, a text that is cut off.

`marks` names them as classes that the figure gets on its page, for a test of the site.
"""

MARGIN = 1  # pixels by which a text may leave its figure: nobody sees it


def marks(figure):
    """The classes of a figure's faults."""
    found = {"lacks-y-label": unlabelled(figure), "cuts-text-off": cut_off(figure)}
    return [name for name, faults in found.items() if faults]


def unlabelled(figure):
    """The titles of the drawings that show numbers or names on a y axis without saying of what."""
    return [
        title_of(ax) or "a drawing without title"
        for ax in figure.axes
        if ax.axison
        and ax.get_label() != "<colorbar>"
        and ax.yaxis.get_tick_params().get("labelleft", True)  # not shared with one to the left
        and not ax.get_ylabel()
    ]


def cut_off(figure):
    """The titles, labels and texts of legends that the edge of the figure cuts."""
    figure.draw_without_rendering()
    left, bottom, right, top = figure.bbox.extents
    found = []
    for text in texts(figure):
        x0, y0, x1, y1 = text.get_window_extent().extents
        beyond = max(left - x0, bottom - y0, x1 - right, y1 - top)
        if text.get_text() and text.get_visible() and beyond > MARGIN:
            found.append(text.get_text())
    return found


def texts(figure):
    """The texts of a figure that stand where they were put, which ticks' do not."""
    yield from figure.texts
    for ax in figure.axes:
        yield from (ax.title, ax._left_title, ax._right_title)
        if ax.axison:
            yield from (ax.xaxis.label, ax.yaxis.label)
    legends = [*figure.legends, *(ax.get_legend() for ax in figure.axes)]
    for legend in filter(None, legends):
        yield from legend.get_texts()


def title_of(ax):
    """The title of a drawing, wherever it stands."""
    return next(filter(None, map(ax.get_title, ("left", "center", "right"))), "")
