"""
Why does a control dependency not hold back the read of a variable?
===================================================================

Because it holds back the operation that asks for the value, not the copy that brings it. In a step
of method 1 of the post "two towers", traced by TensorFlow, the value of ``batch_mean`` leaves its
device **before the batch's mean has been computed**. The assignment comes later; the tower's
``tf.identity``, which waited for the assignment, hands on the old copy.

This takes two devices with memory of their own, and both of two defaults of TensorFlow 1, reference
variables and control flow v1. Either default of TensorFlow 2 repairs it. The whole story:
:doc:`plot_two_towers`; which statistics are then used: :doc:`plot_two_towers_under_the_microscope`.
"""

import re

import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

from bnref import tf1

v1 = tf.compat.v1

# %%
# One step, as TensorFlow traced it
# ---------------------------------
# One tower, the variables on another device, 64 images of 64 × 64 pixels and one channel: mean 10
# in the first step, 20 in the second, which is traced.


def traced(**conditions):
    """Of the second step: (began in microseconds, operation, its inputs), and the mean used."""
    noise = np.random.default_rng(0).standard_normal((64, 64, 64, 1))
    place = tf1.separate_memory(1)
    with tf1.tensorflow_1(**conditions):
        x, training = v1.placeholder(tf.float32, noise.shape), v1.placeholder(tf.bool, ())
        (output,) = tf1.on_towers(
            lambda x: tf1.stored_moments_norm(x, training), x, placement=place
        )
        level = v1.RunOptions(trace_level=v1.RunOptions.FULL_TRACE)
        with tf1.session(place) as session:
            for variable in v1.global_variables():  # in order: one average begins as another
                session.run(variable.initializer)
            session.run(output, {x: noise + 10, training: True})
            trace = v1.RunMetadata()
            feed = {x: noise + 20, training: True}
            y = session.run(output, feed, options=level, run_metadata=trace)
    nodes = [node for device in trace.step_stats.dev_stats for node in device.node_stats]
    events = [(node.all_start_micros, node.node_name, node.timeline_label) for node in nodes]
    return sorted(events), 20 + noise.mean() - y.mean() * noise.std() / y.std()


def began(events, pattern):
    """When the last operation began whose name and inputs match."""
    return max(time for time, name, label in events if re.search(pattern, f"{name} {label}"))


events, mean = traced()
STEPS = {  # what happens, on which device, and the operation that does it
    "read batch_mean": ("variables", r"^bn_conv/batch_mean/read "),
    "send it to the tower": ("variables", r"Identity/Switch "),
    "mean of the batch": ("tower", r"^tower_0/bn_conv/moments/mean "),
    "assign batch_mean": ("variables", r"^tower_0/bn_conv/Assign "),
    "tf.identity(batch_mean)": ("tower", r"cond_\d*/Identity "),
    "normalize": ("tower", r"batchnorm/sub "),
}
when = {what: began(events, pattern) for what, (_, pattern) in STEPS.items()}
fig, ax = plt.subplots(figsize=(6.2, 2.8), layout="constrained")
for device, colour in {"variables": "C1", "tower": "C0"}.items():
    rows = [row for row, (where, _) in enumerate(STEPS.values()) if where == device]
    times = np.array(list(when.values()))[rows] - when["read batch_mean"]
    ax.plot(times, rows, "o", color=colour, ms=9, label=f"device of the {device}")
ax.set_yticks(range(len(STEPS)), list(STEPS))
ax.set(xlabel="microseconds since the read")
ax.invert_yaxis()
ax.legend()
plt.show()

# %%
# Under other defaults
# --------------------
# A resource variable is read by an operation of its own, on the variable's device, and the
# dependency holds that back. In control flow v2 a branch is a function: its inputs pass through an
# operation on the variable's device that waits, with the whole call, for the dependency. In both,
# the copy is made after the assignment.

SENT = r"(Identity/(Switch|ReadVariableOp) )|(then/.*input/.*batch_mean)"
ASSIGNED = r"^tower_0/bn_conv/Assign(VariableOp)? "
results = {}
for resource in (False, True):
    for v2 in (False, True):
        name = f"{'resource' if resource else 'reference'} variables, control flow v{1 + v2}"
        events, mean = traced(resource_variables=resource, control_flow_v2=v2)
        results[name] = began(events, SENT) - began(events, ASSIGNED), mean
fig, ax = plt.subplots(figsize=(6.2, 2.2), layout="constrained")
for row, (sent, _) in enumerate(results.values()):
    ax.barh(row, sent, color="C1" if sent < 0 else "C2")
ax.set_yticks(range(4), [name.replace(", ", ",\n") for name in results])
ax.axvline(0, color="#555555", lw=1)
ax.set(xlabel="value sent, microseconds after the assignment")
ax.invert_yaxis()
plt.show()

# %%
# Conclusion
# ----------

for name, (sent, mean) in results.items():
    print(f"{name:37} sent {sent:6} µs after the assignment, mean used {mean:5.2f} of 20")
order = list(when.values())
assert order == sorted(order), "the value left before the mean was computed and assigned"
assert [sent > 0 for sent, _ in results.values()] == [False, True, True, True]
assert np.allclose([mean for _, mean in results.values()], [10, 20, 20, 20], atol=0.1)
