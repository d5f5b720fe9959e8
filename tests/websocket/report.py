"""Says what the public suite's program found, a line a group; fails where a case did."""

import collections
import json
import sys

(results,) = json.load(open(sys.argv[1])).values()
groups = collections.defaultdict(collections.Counter)
bad = []
for number, result in results.items():
    groups[int(number.split(".")[0])][result["behavior"]] += 1
    if not {result["behavior"], result["behaviorClose"]} <= {"OK", "INFORMATIONAL"}:
        bad.append(f"{number}: {result['behavior']}, close {result['behaviorClose']}")
for group, counts in sorted(groups.items()):
    print(f"group {group:>2}: " + ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())))
print("\n".join(bad + [f"{len(results)} cases, {len(bad)} failed"]))
sys.exit(1 if bad or not results else 0)
