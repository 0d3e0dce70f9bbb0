// The certified provider, as the tests want it. Each line of standard input is a configuration (see oidc.py) that
// takes the place of the one before, as after a restart; the answer is a line on standard output: the port. The end of
// standard input ends the process.

import { createServer } from 'node:http';
import { createInterface } from 'node:readline';
import Provider from 'oidc-provider';

const say = (line) => process.stdout.write(`${line}\n`);
console.info = console.warn = () => {}; // the provider's advice for production

const resourceServer = (settings, resource, client) => ({
  audience: resource,
  scope: 'use',
  accessTokenFormat: 'jwt',
  accessTokenTTL: settings.lifetime,
  jwt: { sign: { alg: settings.clients[client.clientId].alg } },
});

const clientMetadata = (id, { secret, redirect_uri: redirectUri }) =>
  secret
    ? {
        client_id: id,
        client_secret: secret,
        token_endpoint_auth_method: 'client_secret_post',
        grant_types: ['client_credentials'],
        redirect_uris: [],
        response_types: [],
      }
    : {
        client_id: id,
        token_endpoint_auth_method: 'none',
        application_type: 'native',
        redirect_uris: [redirectUri],
      };

const build = (issuer, settings) =>
  new Provider(issuer, {
    jwks: settings.jwks,
    clients: Object.entries(settings.clients).map(([id, client]) => clientMetadata(id, client)),
    cookies: { keys: ['only for tests'] },
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: true }, // pages that take any name and password
      resourceIndicators: {
        enabled: true,
        defaultResource: () => settings.audience,
        useGrantedResource: () => true,
        getResourceServerInfo: (_, resource, client) => resourceServer(settings, resource, client),
      },
    },
    formats: {
      customizers: {
        jwt: (_, token, jwt) => {
          Object.assign(jwt.payload, settings.clients[token.clientId].claims, settings.users[token.accountId]);
        },
      },
    },
    ttl: { Session: 3600, Grant: 3600, Interaction: 600 },
  });

let answer;
const server = createServer((request, response) => answer(request, response));
server.listen(0, '127.0.0.1', async () => {
  const { port } = server.address();
  for await (const line of createInterface({ input: process.stdin })) {
    answer = build(`http://127.0.0.1:${port}`, JSON.parse(line)).callback();
    say(port);
  }
  process.exit();
});
