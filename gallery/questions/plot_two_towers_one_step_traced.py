"""
Why does a control dependency not hold back the read of a variable?
===================================================================

Because it holds back the operation that asks for the value, not the copy that brings it. In a step
of method 1 of the post "two towers", traced by TensorFlow, the value of ``batch_mean`` leaves its
device :claim:`300 µs <sent_early>` before the mean of the batch is assigned to it. The tower's
``tf.identity``, which waited for the assignment, hands on the old copy: a mean of
:claim:`10.0 <stale>` where the batch has 20.

.. symptom:: worse on two GPUs
   :cause: a variable of another device is read a step late, in spite of a control dependency
   :check: ``variable.op.type == "VariableV2"``, in a graph with control flow v1
   :likelihood: seldom
   :question: 3
"""

# %%
# Check
# -----
# Only reference variables are read so, the default of TensorFlow 1. Which variables of a graph are?

import re

import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

from bnref import tf1
from bnref_gallery.claims import claim

v1 = tf.compat.v1


def reference_variables(graph):
    """The names of the variables of the graph that are not resource variables."""
    operations = graph.get_operations()
    return [each.name for each in operations if each.type in ("VariableV2", "Variable")]


# %%
# Fix
# ---
# Make resource variables. They are the default since TensorFlow 2, so a graph of TensorFlow 1 gets
# them by ``v1.enable_resource_variables()`` too, called before the graph is made. Or normalize by
# the tensors, and not by what is read back.
#
# Wrong
# ^^^^^


def moment_variable(name, channels):
    zeros = v1.zeros_initializer()
    return v1.get_variable(name, [channels], initializer=zeros, use_resource=False)


# %%
# Right
# ^^^^^


def moment_variable_right(name, channels):
    zeros = v1.zeros_initializer()
    return v1.get_variable(name, [channels], initializer=zeros, use_resource=True)


# %%
# Why
# ---
# It goes wrong at question 3 (used when): the statistics of the step before are used. Where tower
# and variable have one memory, the copy is the variable itself, and all is well. It takes two
# devices with memory of their own, and both of two defaults of TensorFlow 1, reference variables
# and control flow v1. A resource variable is read by an operation of its own, on the variable's
# device, and the dependency holds that back. In control flow v2 a branch is a function: its inputs
# pass through an operation on the variable's device that waits, with the whole call, for the
# dependency. In both the copy is made after the assignment.
#
# The whole story: :doc:`plot_two_towers`; which statistics are then used:
# :doc:`plot_two_towers_under_the_microscope`.
#
# Experiment
# ----------
# One tower, the variables on another device, 64 images of 64 × 64 pixels and one channel: mean 10
# in a first step, 20 in a second, which is traced. Nothing but time orders the copy and the
# assignment, so this is done five times, and the step in the middle is shown.

NOISE = np.random.default_rng(0).standard_normal((64, 64, 64, 1))
SENT = r"(Identity/(Switch|ReadVariableOp) )|(then/.*input/.*batch_mean)"
ASSIGNED = r"^tower_0/bn_conv/Assign(VariableOp)? "


def traced(**conditions):
    """The middle one of five traced steps, and the graph's reference variables."""
    place = tf1.separate_memory(1)
    with tf1.tensorflow_1(**conditions):
        x, training = v1.placeholder(tf.float32, NOISE.shape), v1.placeholder(tf.bool, ())
        (output,) = tf1.on_towers(
            lambda x: tf1.stored_moments_norm(x, training), x, placement=place
        )
        with tf1.session(place) as session:
            for variable in v1.global_variables():  # in order: one average begins as another
                session.run(variable.initializer)
            steps = [traced_step(session, output, x, training) for _ in range(5)]
        found = reference_variables(v1.get_default_graph())
    steps.sort(key=lambda step: step["sent"])
    return steps[2], found


def traced_step(session, output, x, training):
    """When each operation of a step began, when the value was sent, and the mean that was used."""
    session.run(output, {x: NOISE + 10, training: True})
    trace, level = v1.RunMetadata(), v1.RunOptions(trace_level=v1.RunOptions.FULL_TRACE)
    feed = {x: NOISE + 20, training: True}
    y = session.run(output, feed, options=level, run_metadata=trace)
    events = events_of(trace)
    used = 20 + NOISE.mean() - y.mean() * NOISE.std() / y.std()
    return {
        "events": events,
        "sent": began(events, SENT) - began(events, ASSIGNED),  # microseconds
        "mean": used,
    }


def events_of(trace):
    """(began in microseconds, operation, its inputs), in order."""
    nodes = [node for device in trace.step_stats.dev_stats for node in device.node_stats]
    events = [(node.all_start_micros, node.node_name, node.timeline_label) for node in nodes]
    return sorted(events)


def began(events, pattern):
    """When the last operation began whose name and inputs match."""
    return max(time for time, name, label in events if re.search(pattern, f"{name} {label}"))


# %%
# What happens in the step, on which device, and the operation that does it.

STEPS = {
    "read batch_mean": ("variables", r"^bn_conv/batch_mean/read "),
    "send it to the tower": ("variables", r"Identity/Switch "),
    "mean of the batch": ("tower", r"^tower_0/bn_conv/moments/mean "),
    "assign batch_mean": ("variables", r"^tower_0/bn_conv/Assign "),
    "tf.identity(batch_mean)": ("tower", r"cond_\d*/Identity "),
    "normalize": ("tower", r"batchnorm/sub "),
}
shown, _ = traced()
when = {what: began(shown["events"], pattern) for what, (_, pattern) in STEPS.items()}

# %%
# The same under other defaults: when is the value sent, counted from the assignment?

results = {}
for resource in (False, True):
    for v2 in (False, True):
        name = f"{'resource' if resource else 'reference'} variables, control flow v{1 + v2}"
        step, found = traced(resource_variables=resource, control_flow_v2=v2)
        results[name] = step["sent"], step["mean"], found

# %%

fig, (one, defaults) = plt.subplots(2, 1, figsize=(6.2, 4.8), layout="constrained")
for device, colour in {"variables": "C1", "tower": "C0"}.items():
    rows = [row for row, (where, _) in enumerate(STEPS.values()) if where == device]
    times = np.array(list(when.values()))[rows] - when["read batch_mean"]
    one.plot(times, rows, "o", color=colour, ms=9, label=f"device of the {device}")
one.set_yticks(range(len(STEPS)), list(STEPS))
one.set(title="One step of method 1", xlabel="microseconds since the read")
one.locator_params(axis="x", nbins=5)  # so that the numbers keep apart
one.invert_yaxis()
one.legend()
for row, (sent, _, _) in enumerate(results.values()):
    defaults.barh(row, sent, color="C1" if sent < 0 else "C2")
defaults.set_yticks(range(4), [name.replace(", ", ",\n") for name in results])
defaults.axvline(0, color="#555555", lw=1)
defaults.set(title="By the defaults", xlabel="value sent, microseconds after the assignment")
defaults.invert_yaxis()
defaults.locator_params(axis="x", nbins=5)
one.set_ylabel("operation")
defaults.set_ylabel("variables, control flow")
plt.show()

# %%
# Proof
# -----
# The order of the operations, what is used under each pair of defaults, and the check.

for name, (sent, mean, _) in results.items():
    print(f"{name:37} sent {sent:6} µs after the assignment, mean used {mean:5.2f} of 20")
# The mean of the batch waits for nothing of the copy, and may be computed before it or after it.
chain = ("read batch_mean", "send it to the tower", "assign batch_mean", "tf.identity(batch_mean)")
order = [when[what] for what in (*chain, "normalize")]
assert order == sorted(order), "the value left before the mean was assigned"
assert when["mean of the batch"] < when["assign batch_mean"], "which is the mean of this batch"
early = when["assign batch_mean"] - when["send it to the tower"]
claim("sent_early", early, "microseconds from the copy to the assignment", above=0)
claim("stale", shown["mean"], "mean used where the batch has 20", above=9.9, below=10.1)
late = [sent > 0 for sent, _, _ in results.values()]
assert late == [False, True, True, True], "either default of TensorFlow 2 repairs it"
used = [mean for _, mean, _ in results.values()]
assert np.allclose(used, [10, 20, 20, 20], atol=0.1), "and the batch's own mean is used"
reference, _, resource, _ = (found for _, _, found in results.values())
assert reference and not resource, "the check names the reference variables, and no others"
with tf1.tensorflow_1():
    types = [moment_variable("old", 3).op.type, moment_variable_right("new", 3).handle.op.type]
assert types == ["VariableV2", "VarHandleOp"], "the two variables of the fix"
