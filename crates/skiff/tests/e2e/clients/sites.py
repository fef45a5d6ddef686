"""An operator on the official Python client, and what its users do to it.

A "site" is a ConfigMap with the label kind=site: how many pods show which text. The operator lists and watches sites, applies
a Deployment for each (server-side), says in the site what it sees, and takes the Deployment away before a site may go. It gets
keys and looks for itself, as operators do. Runs until everything is as users want it, or until its time is up.
"""

import queue
import sys
import threading
import time

from kubernetes import client, config, stream, watch
from kubernetes.client.exceptions import ApiException

NAMESPACE = "sites"
LABEL = "kind=site"
FINALIZER = "example.com/site"
STATE = "example.com/state"
MANAGER = "site-operator"
PATIENCE = 120


def not_found(call, *arguments, **options):
    """The result of a call, or None if there is no such object."""
    try:
        return call(*arguments, **options)
    except ApiException as error:
        if error.status == 404:
            return None
        raise


class Operator:
    def __init__(self):
        self.core = client.CoreV1Api()
        self.apps = client.AppsV1Api()
        self.keys = queue.Queue()
        self.stopping = threading.Event()
        self.failures = []
        self.relists = 0

    def follow(self, list_function, key):
        """Lists, then watches from there; starts over when what it saw is too old."""
        version = ""
        while not self.stopping.is_set():
            try:
                if not version:
                    self.relists += 1
                    listed = list_function(NAMESPACE, label_selector=LABEL)
                    for item in listed.items:
                        self.keys.put(key(item))
                    version = listed.metadata.resource_version
                events = watch.Watch().stream(
                    list_function, NAMESPACE, label_selector=LABEL, resource_version=version,
                    allow_watch_bookmarks=True, timeout_seconds=2)
                for event in events:
                    version = event["raw_object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        self.keys.put(key(event["object"]))
            except ApiException as error:
                if error.status != 410:
                    raise
                version = ""

    def guarded(self, work, *arguments):
        def run():
            try:
                work(*arguments)
            except Exception as error:  # what a thread dies of is the test's failure
                self.failures.append(error)
                self.stopping.set()
        return threading.Thread(target=run, daemon=True)

    def work(self):
        while not self.stopping.is_set():
            try:
                name = self.keys.get(timeout=0.2)
            except queue.Empty:
                continue
            try:
                self.reconcile(name)
            except ApiException as error:
                if error.status != 409:
                    raise
                self.keys.put(name)

    def reconcile(self, name):
        site = not_found(self.core.read_namespaced_config_map, name, NAMESPACE)
        if site is None:
            return
        finalizers = site.metadata.finalizers or []
        version = site.metadata.resource_version
        if site.metadata.deletion_timestamp:
            if FINALIZER in finalizers:
                not_found(self.apps.delete_namespaced_deployment, name, NAMESPACE, propagation_policy="Foreground")
                if not_found(self.apps.read_namespaced_deployment, name, NAMESPACE) is None:
                    self.patch(name, version, {"finalizers": [one for one in finalizers if one != FINALIZER]})
            return
        if FINALIZER not in finalizers:
            # The patch comes back as an event.
            self.patch(name, version, {"finalizers": finalizers + [FINALIZER]})
            return
        deployment = self.apply(site)
        ready = deployment.status.ready_replicas or 0 if deployment.status else 0
        seen = deployment.status and deployment.status.observed_generation == deployment.metadata.generation
        state = f"{ready}/{site.data['replicas']} {site.data['text']}" if seen else "waiting"
        if (site.metadata.annotations or {}).get(STATE) != state:
            self.patch(name, version, {"annotations": {STATE: state}})

    def patch(self, name, version, metadata):
        body = {"metadata": dict(metadata, resourceVersion=version)}
        # Lists are merged otherwise.
        self.core.patch_namespaced_config_map(name, NAMESPACE, body, _content_type="application/merge-patch+json")

    def apply(self, site):
        name, labels = site.metadata.name, {"kind": "site", "site": site.metadata.name}
        container = {
            "name": "site", "image": "skiff.local/busybox:1.35",
            "command": ["sh", "-c", "trap exit TERM; while :; do sleep 1; done"],
            "env": [{"name": "TEXT", "value": site.data["text"]}],
        }
        body = {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": labels},
            "spec": {
                "replicas": int(site.data["replicas"]), "selector": {"matchLabels": {"site": name}},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]},
                },
            },
        }
        return self.apps.patch_namespaced_deployment(
            name, NAMESPACE, body, field_manager=MANAGER, force=True, _content_type="application/apply-patch+yaml")

    def start(self):
        threads = [
            self.guarded(self.follow, self.core.list_namespaced_config_map, lambda site: site.metadata.name),
            self.guarded(self.follow, self.apps.list_namespaced_deployment, lambda item: item.metadata.name),
            self.guarded(self.work),
        ]
        for thread in threads:
            thread.start()
        return threads


def site(name, replicas, text):
    metadata = client.V1ObjectMeta(name=name, labels={"kind": "site"})
    return client.V1ConfigMap(metadata=metadata, data={"replicas": str(replicas), "text": text})


def wait(operator, what, done):
    end = time.monotonic() + PATIENCE
    while not done():
        if operator.failures:
            raise operator.failures[0]
        assert time.monotonic() < end, f"not within {PATIENCE} s: {what}"
        time.sleep(0.1)


def main():
    config.load_kube_config(sys.argv[1])
    operator = Operator()
    core, apps = operator.core, operator.apps
    core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=NAMESPACE)))
    # One is there before the operator is.
    core.create_namespaced_config_map(NAMESPACE, site("one", 1, "first"))
    threads = operator.start()

    def state(name):
        found = not_found(core.read_namespaced_config_map, name, NAMESPACE)
        return found and (found.metadata.annotations or {}).get(STATE)

    for name in ("two", "three"):
        core.create_namespaced_config_map(NAMESPACE, site(name, 2, name))
    wait(operator, "sites are shown", lambda: [state(name) for name in ("one", "two", "three")] ==
         ["1/1 first", "2/2 two", "2/2 three"])

    # Users change their minds, and somebody meddles with what is the operator's.
    core.patch_namespaced_config_map("two", NAMESPACE, {"data": {"replicas": "1", "text": "second"}})
    apps.patch_namespaced_deployment("one", NAMESPACE, {"spec": {"replicas": 0}})
    core.delete_namespaced_config_map("three", NAMESPACE)
    wait(operator, "changes are followed", lambda: (state("one"), state("two")) == ("1/1 first", "1/1 second"))
    wait(operator, "a site goes with its Deployment", lambda: state("three") is None and
         not_found(core.read_namespaced_config_map, "three", NAMESPACE) is None)
    assert not_found(apps.read_namespaced_deployment, "three", NAMESPACE) is None
    wait(operator, "pods are those of the sites", lambda: sorted(
        pod.metadata.labels["site"] for pod in core.list_namespaced_pod(NAMESPACE).items
        if not pod.metadata.deletion_timestamp) == ["one", "two"])
    for name in ("one", "two"):
        owners = {entry.manager for entry in apps.read_namespaced_deployment(name, NAMESPACE).metadata.managed_fields}
        assert MANAGER in owners, owners
    replicas = apps.read_namespaced_deployment("one", NAMESPACE).spec.replicas
    assert replicas == 1, replicas

    # What a pod of a site is asked, it answers.
    pod = core.list_namespaced_pod(NAMESPACE, label_selector="site=one").items[0].metadata.name
    command = ["sh", "-c", "echo out; echo err >&2; exit 5"]
    shell = stream.stream(core.connect_get_namespaced_pod_exec, pod, NAMESPACE, command=command, stdin=False,
                          stdout=True, stderr=True, tty=False, _preload_content=False)
    shell.run_forever(timeout=30)
    assert (shell.read_stdout(), shell.read_stderr(), shell.returncode) == ("out\n", "err\n", 5), shell.returncode

    core.delete_collection_namespaced_config_map(NAMESPACE, label_selector=LABEL)
    wait(operator, "all sites go", lambda: not apps.list_namespaced_deployment(NAMESPACE).items and
         not core.list_namespaced_config_map(NAMESPACE, label_selector=LABEL).items)
    operator.stopping.set()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive(), "a watch does not end"
    core.delete_namespace(NAMESPACE)
    assert not operator.failures, operator.failures
    # What went wrong is told in words that the client understands.
    try:
        core.create_namespaced_config_map("default", site("Not_A_Name", 1, ""))
        raise AssertionError("a name that is none was taken")
    except ApiException as error:
        assert error.status == 422 and "RFC 1123" in error.body, error
    print(f"converged after {operator.relists} lists")


main()
