"""What people look at: progress bar, Caffe-style log lines, plots, pictures of nets."""

from cosdask.view.caffe_lines import caffe_lines, describe_run
from cosdask.view.callbacks import Callbacks, EarlyStop, StopTraining
from cosdask.view.draw import draw_net
from cosdask.view.frames import get_image, get_np_array, image_tag, show_captions, show_df
from cosdask.view.network import show_network
from cosdask.view.plots import plot_history, plot_predictions, plot_summary
from cosdask.view.progress import Consumer, JsonLines, LineLog, ProgressBar, default_consumers, in_notebook
from cosdask.view.report import report, write_report
from cosdask.view.tensorboard import TensorBoard

__all__ = [
    "Callbacks",
    "Consumer",
    "EarlyStop",
    "JsonLines",
    "LineLog",
    "ProgressBar",
    "StopTraining",
    "TensorBoard",
    "caffe_lines",
    "default_consumers",
    "describe_run",
    "draw_net",
    "get_image",
    "get_np_array",
    "image_tag",
    "in_notebook",
    "plot_history",
    "plot_predictions",
    "plot_summary",
    "report",
    "show_captions",
    "show_df",
    "show_network",
    "write_report",
]
