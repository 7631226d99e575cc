#!/usr/bin/env python3
"""Writes types.txt, the facts about API types that the schema module reads.

    generate.py API_CHECKOUT APIMACHINERY_CHECKOUT > types.txt

The arguments are checkouts (bare ones too) of github.com/kubernetes/api and
github.com/kubernetes/apimachinery. Only facts are taken: field names, protobuf tags, types, and
the patch and list markers. One block a type, its fields indented:

    core.v1.Container
     1 name string !

A field line is: protobuf tag (0 for none), JSON name (- for an inlined struct), type, flags:
  ?  a pointer: absent and zero differ
  !  required, and serialised even when zero      !o  serialised so, but optional
  p=STRATEGY, k=KEY   patchStrategy, patchMergeKey
  l=set|atomic|map:KEY,KEY                  listType, listMapKey
  m=atomic                                  mapType or structType
"""

import re
import subprocess
import sys

ROOTS = """
core.v1.Namespace core.v1.Node core.v1.Pod core.v1.Service core.v1.Endpoints core.v1.ConfigMap
core.v1.Secret core.v1.ServiceAccount core.v1.Event core.v1.Binding apps.v1.Deployment
apps.v1.ReplicaSet discovery.v1.EndpointSlice coordination.v1.Lease policy.v1.Eviction
autoscaling.v1.Scale authentication.v1.TokenRequest meta.v1.DeleteOptions meta.v1.ListMeta
authentication.v1.SelfSubjectReview authorization.v1.SelfSubjectAccessReview
authorization.v1.SelfSubjectRulesReview authorization.v1.SubjectAccessReview
authorization.v1.LocalSubjectAccessReview
""".split()

SCALARS = {
    "string": "string", "bool": "bool", "int32": "int32", "int64": "int64", "int": "int32",
    "uint32": "int32", "uint64": "int64", "float64": "float64", "byte": "byte", "[]byte": "bytes",
    "meta.v1.Time": "Time", "meta.v1.MicroTime": "MicroTime", "resource.Quantity": "Quantity",
    "intstr.IntOrString": "IntOrString", "runtime.RawExtension": "Raw", "meta.v1.FieldsV1": "Raw",
    "types.UID": "string", "types.NodeName": "string",
}


def source(checkout, path):
    shown = subprocess.run(["git", "-C", checkout, "show", f"HEAD:{path}"],
                           capture_output=True, text=True, check=True)
    return shown.stdout


def package(alias):
    return {"v1": "core.v1", "metav1": "meta.v1"}.get(alias, alias)


def qualify(go_type, home):
    if go_type in SCALARS or go_type == "[]byte":
        return go_type
    if "." in go_type:
        alias, name = go_type.split(".")
        return f"{package(alias)}.{name}"
    return f"{home}.{go_type}"


def parse(text, home, structs, aliases):
    """Collects `type X struct {…}` and `type X string` of one file."""
    for name, target in re.findall(r"^type (\w+) ([\w.\[\]]+)$", text, re.M):
        aliases[f"{home}.{name}"] = qualify(target, home)
    for name, key, value in re.findall(r"^type (\w+) map\[(\w+)\]([\w.]+)$", text, re.M):
        aliases[f"{home}.{name}"] = f"map:{qualify(value, home)}"
    for name, target in re.findall(r"^type (\w+) \[\](\w+)$", text, re.M):
        aliases[f"{home}.{name}"] = f"list:{qualify(target, home)}"
    for name, body in re.findall(r"^type (\w+) struct \{\n(.*?)^\}", text, re.M | re.S):
        fields, markers = [], []
        for line in body.splitlines():
            line = line.strip()
            if line.startswith("//"):
                markers += re.findall(r"^// ?\+(\w+)(?:=(\S+))?", line)
                continue
            match = re.match(r"^(?:(\w+)\s+)?([*\w.\[\]]+)\s+`(.*)`", line)
            if match:
                fields.append((match.group(2), match.group(3), dict_of(markers)))
            if not line or match:
                markers = []
        structs[f"{home}.{name}"] = fields


def dict_of(markers):
    facts = {}
    for name, value in markers:
        facts.setdefault(name, []).append(value)
    return facts


def type_of(go_type, home, aliases):
    """(type text, referenced struct or None)"""
    if go_type.startswith("*"):
        return type_of(go_type[1:], home, aliases)
    if go_type == "[]byte":
        return "bytes", None
    if go_type.startswith("[]"):
        inner, ref = type_of(go_type[2:], home, aliases)
        return f"[]{inner}", ref
    match = re.match(r"map\[[\w.]+\](.+)", go_type)
    if match:
        inner, ref = type_of(match.group(1), home, aliases)
        return f"{{}}{inner}", ref
    name = qualify(go_type, home)
    if name in SCALARS:
        return SCALARS[name], None
    if name in aliases:
        target = aliases[name]
        for prefix, shape in (("map:", "{}"), ("list:", "[]")):
            if target.startswith(prefix):
                inner, ref = type_of(target[len(prefix):], home, aliases)
                return shape + inner, ref
        return type_of(target, home, aliases)
    return name, name


def field_line(go_type, tags, facts, home, aliases):
    tag = re.search(r'protobuf:"\w+,(\d+)', tags)
    json = re.search(r'json:"([^"]*)"', tags).group(1).split(",")
    text, ref = type_of(go_type, home, aliases)
    words = [tag.group(1) if tag else "0", json[0] or "-", text]
    omits = "omitempty" in json or "omitzero" in json
    if go_type.startswith("*"):
        words.append("?")
    elif not omits and json[0]:
        words.append("!" if "optional" not in facts else "!o")
    for key, flag in (("patchStrategy", "p"), ("patchMergeKey", "k")):
        value = re.search(key + r':"([^"]*)"', tags)
        if value:
            words.append(f"{flag}={value.group(1)}")
    if "listType" in facts:
        kind = facts["listType"][0]
        keys = ",".join(facts.get("listMapKey", []))
        words.append(f"l={kind}:{keys}" if kind == "map" else f"l={kind}")
    if "atomic" in facts.get("mapType", []) + facts.get("structType", []):
        words.append("m=atomic")
    return " ".join(words), ref


def main():
    api, machinery = sys.argv[1:]
    structs, aliases = {}, {}
    for path in ("core/v1", "apps/v1", "discovery/v1", "coordination/v1", "policy/v1",
                 "autoscaling/v1", "authentication/v1", "authorization/v1"):
        parse(source(api, f"{path}/types.go"), path.replace("/", "."), structs, aliases)
    parse(source(machinery, "pkg/apis/meta/v1/types.go"), "meta.v1", structs, aliases)

    wanted, blocks = list(ROOTS), {}
    while wanted:
        name = wanted.pop()
        if name in blocks:
            continue
        home = name.rsplit(".", 1)[0]
        lines = []
        for go_type, tags, facts in structs[name]:
            if 'json:"-"' in tags:
                continue
            line, ref = field_line(go_type, tags, facts, home, aliases)
            lines.append(line)
            if ref:
                wanted.append(ref)
        blocks[name] = lines
    print("# Written by generate.py from k8s.io/api and k8s.io/apimachinery v0.37. Do not edit.")
    for name in sorted(blocks):
        print(name)
        for line in blocks[name]:
            print(f" {line}")


if __name__ == "__main__":
    main()
