// The official JavaScript client: every verb, patches of each kind, a watch, an informer, and a command in a container.
// node crud.mjs KUBECONFIG FOLDER_OF_NODE_MODULES

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import path from 'node:path';
import { Readable, Writable } from 'node:stream';
import { setTimeout as pause } from 'node:timers/promises';

const [kubeconfig, folder] = process.argv.slice(2).map((name) => path.resolve(name));
const k8s = createRequire(path.join(folder, 'index.js'))('@kubernetes/client-node');
const config = new k8s.KubeConfig();
config.loadFromFile(kubeconfig);
const core = config.makeApiClient(k8s.CoreV1Api);
const namespace = 'default';
const labels = { app: 'crud' };
const labelSelector = 'app=crud';

async function until(what, done) {
  const end = Date.now() + 60_000;
  while (!(await done())) {
    assert(Date.now() < end, `not within a minute: ${what}`);
    await pause(50);
  }
}

async function code(call) {
  try {
    await call;
    return 200;
  } catch (error) {
    return error.code;
  }
}

// Whoever watches sees everything in order.
const seen = [];
const watch = new k8s.Watch(config);
let ended = null;
const stop = await watch.watch(
  `/api/v1/namespaces/${namespace}/configmaps`,
  { labelSelector, allowWatchBookmarks: true },
  (type, object) => seen.push(`${type} ${object.metadata.name}`),
  (error) => { ended = error ?? 'in peace'; },
);
const informer = k8s.makeInformer(
  config,
  `/api/v1/namespaces/${namespace}/configmaps`,
  () => core.listNamespacedConfigMap({ namespace, labelSelector }),
  labelSelector,
);
const informed = [];
for (const event of ['add', 'update', 'delete']) {
  informer.on(event, (object) => informed.push(`${event} ${object.metadata.name}`));
}
await informer.start();

const body = { metadata: { name: 'crud', labels }, data: { a: '1' } };
const made = await core.createNamespacedConfigMap({ namespace, body });
assert.equal(made.data.a, '1');
assert.equal(await code(core.createNamespacedConfigMap({ namespace, body })), 409);
const name = 'crud';
let read = await core.readNamespacedConfigMap({ namespace, name });
assert.equal(read.metadata.uid, made.metadata.uid);

read.data.a = '2';
const replaced = await core.replaceNamespacedConfigMap({ namespace, name, body: read });
assert.equal(replaced.data.a, '2');
assert.equal(await code(core.replaceNamespacedConfigMap({ namespace, name, body: read })), 409, 'it is stale');

const patch = (body, type, more) => core.patchNamespacedConfigMap(
  { namespace, name, body, ...more }, k8s.setHeaderOptions('Content-Type', type));
await patch([{ op: 'add', path: '/data/b', value: '3' }], k8s.PatchStrategy.JsonPatch);
await patch({ data: { a: null, c: '4' } }, k8s.PatchStrategy.MergePatch);
await patch({ data: { d: '5' } }, k8s.PatchStrategy.StrategicMergePatch);
const applied = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name }, data: { e: '6' } };
await patch(applied, k8s.PatchStrategy.ServerSideApply, { fieldManager: 'crud', force: true });
read = await core.readNamespacedConfigMap({ namespace, name });
assert.deepEqual({ ...read.data }, { b: '3', c: '4', d: '5', e: '6' });

// Pages of one.
for (const other of ['crud-1', 'crud-2']) {
  await core.createNamespacedConfigMap({ namespace, body: { metadata: { name: other, labels } } });
}
const names = [];
let _continue;
do {
  const page = await core.listNamespacedConfigMap({ namespace, labelSelector, limit: 1, _continue });
  // The last one may be empty: nobody has looked whether what is left is selected.
  assert(page.items.length <= 1);
  names.push(...page.items.map((item) => item.metadata.name));
  _continue = page.metadata._continue;
} while (_continue);
assert.deepEqual(names, ['crud', 'crud-1', 'crud-2']);

await core.deleteNamespacedConfigMap({ namespace, name });
assert.equal(await code(core.readNamespacedConfigMap({ namespace, name })), 404);
await core.deleteCollectionNamespacedConfigMap({ namespace, labelSelector });
assert.equal((await core.listNamespacedConfigMap({ namespace, labelSelector })).items.length, 0);

await until('everything is seen', () => seen.length >= 11 && informed.length >= 11);
const wanted = [
  'ADDED crud', ...Array(5).fill('MODIFIED crud'), 'ADDED crud-1', 'ADDED crud-2', 'DELETED crud', 'DELETED crud-1',
  'DELETED crud-2',
];
assert.deepEqual(seen.filter((event) => !event.startsWith('BOOKMARK')), wanted);
assert.equal(informed.filter((event) => event === 'update crud').length, 5, informed.join());
await informer.stop();
stop.abort();
await until('the watch ends', () => ended !== null);

// Objects of any kind, as kubectl handles them.
const objects = k8s.KubernetesObjectApi.makeApiClient(config);
const secret = { apiVersion: 'v1', kind: 'Secret', metadata: { name, namespace }, stringData: { a: 'b' } };
await objects.create(secret);
assert.equal((await objects.read(secret)).data.a, 'Yg==');
await objects.delete(secret);

// A command in a container: what goes in comes out, apart from what it complains about, and how it ends is told.
const spec = { terminationGracePeriodSeconds: 0, containers: [{ name: 'c', image: 'skiff.local/busybox:1.35', command: ['sleep', '1000'] }] };
await core.createNamespacedPod({ namespace, body: { metadata: { name }, spec } });
await until('the pod runs', async () => (await core.readNamespacedPod({ namespace, name })).status.phase === 'Running');
// Its end would be the end of the connection, in the versions of the protocol before the fifth.
const input = new Readable({ read() {} });
input.push('hello\n');
const heard = { out: '', err: '' };
const into = (stream) => new Writable({ write(chunk, _, done) { heard[stream] += chunk; done(); } });
const status = await new Promise((resolve, reject) => {
  new k8s.Exec(config)
    .exec(namespace, name, 'c', ['sh', '-c', 'read -r line; echo "heard $line"; echo oh >&2; exit 3'],
      into('out'), into('err'), input, false, resolve)
    .catch(reject);
});
assert.equal(status.status, 'Failure');
assert.equal(status.details.causes[0].message, '3');
assert.deepEqual(heard, { out: 'heard hello\n', err: 'oh\n' });
await core.deleteNamespacedPod({ namespace, name });

const version = await config.makeApiClient(k8s.VersionApi).getCode();
assert.match(version.gitVersion, /^v1\.37\./);
console.log(`${seen.length} events seen`);
