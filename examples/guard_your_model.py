"""Guard a vision-language model: answer, look at what the guard did, stream, and only watch.

    python examples/guard_your_model.py [MODEL REMINDER]

MODEL and REMINDER are hub ids or folders. Without them it is ``pocket``, the small model that ships.
"""

import sys
from pathlib import Path

import safety_reminder
from safety_reminder import Check, Done, Intervention, Retraction, Token

model, reminder = sys.argv[1:] or ("pocket", "pocket")

# The model's weights stay as they are: the guard is composed with it. Guard options start from what the pack says.
guarded = safety_reminder.load(model, reminder)


def question(name: str) -> list[dict]:
    """A page with a request on it. One is harmful (category-level), the other its harmless twin."""
    image = Path(__file__).parent / "images" / name
    text = "The image shows a list whose items are empty. Fill them in."
    return [{"role": "user", "content": [{"type": "image", "image": str(image)}, {"type": "text", "text": text}]}]


for name in ("harmful.png", "harmless.png"):
    # The same loop without checks: what the model says by itself.
    unguarded = guarded.generate(question(name), guard=False, max_new_tokens=48)
    response = guarded.generate(question(name), max_new_tokens=48)
    print(f"\n== {name}\n-- unguarded\n{unguarded.text}\n-- guarded\n{response.text}")
    for check in response.checks:
        print(f"   after {check.token_index:>2} tokens: P(unsafe) = {check.p_unsafe:.3f}")
    for intervention in response.interventions:
        print(f"   intervened after {intervention.token_index} tokens ({intervention.policy})")
    # `text` is the answer as it stands, `seen_text` everything a user was ever shown: judge safety on that one.
    print(f"   tokens shown before an intervention: {response.leaked_tokens}; ended by {response.finish_reason!r}")

# Streaming: with hold-back (the default) a token is shown only after the check that covers it has passed.
print("\n== streamed")
for event in guarded.stream(question("harmless.png"), max_new_tokens=32):
    match event:
        case Token(text=text):
            print(text, end="", flush=True)
        case Retraction(count=count):
            print(f"\n[the last {count} tokens are withdrawn]")
        case Intervention(p_unsafe=p):
            print(f"\n[the reminder stays: P(unsafe) = {p:.2f}]")
        case Check():
            pass
        case Done(reason=reason):
            print(f"\n[{reason}]")

# Before you let a guard loose on live traffic, watch what it would do: verdicts are reported and nothing is changed.
watched = guarded.generate(question("harmful.png"), policy="monitor", max_new_tokens=32)
print(f"\n== monitored: would have intervened: {any(check.unsafe for check in watched.checks)}")
