// Creates the task of one order with the official client: `node create_task.js ADDRESSES TRANSPORT ORDER_ID`, where
// ADDRESSES is the line that `python -m local up --json` prints, and TRANSPORT is grpc or rest. Before, it updates a queue.
import { CloudTasksClient } from '@google-cloud/tasks';
import { googleAuthLibrary, grpc } from 'google-gax';

const [addresses, transport, orderId] = process.argv.slice(2);
const at = JSON.parse(addresses);

const { hostname, port } = new URL(transport === 'grpc' ? `http://${at.tasks_grpc}` : at.tasks_rest);
const client = new CloudTasksClient({
  apiEndpoint: hostname,
  port: Number(port),
  authClient: new googleAuthLibrary.PassThroughClient(), // nobody is asked for credentials
  ...(transport === 'grpc' ? { sslCreds: grpc.credentials.createInsecure() } : { fallback: true, protocol: 'http' }),
});

const [queue] = await client.updateQueue({
  queue: {
    name: client.queuePath('local-project', 'us-central1', `node-${transport}`),
    rateLimits: { maxDispatchesPerSecond: 7, maxConcurrentDispatches: 3 },
  },
  updateMask: { paths: ['rate_limits.max_dispatches_per_second'] },
});
console.log(queue.rateLimits.maxDispatchesPerSecond, queue.rateLimits.maxConcurrentDispatches);

const order = { orderId, action: 'send_confirmation', customerEmail: 'ada@example.com' };
const [task] = await client.createTask({
  parent: client.queuePath('local-project', 'us-central1', 'cloud-run-tasks'),
  task: {
    httpRequest: {
      httpMethod: 'POST',
      url: `${at.service_url}/process-order`,
      headers: { 'Content-Type': 'application/json' },
      body: Buffer.from(JSON.stringify(order)).toString('base64'),
      oidcToken: { serviceAccountEmail: at.invoker_email, audience: at.service_url },
    },
  },
});
console.log(task.name);
