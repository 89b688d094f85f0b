// A js-libp2p node that does what it is told: one JSON object a line in, one a line out.
// It speaks what Tolsey speaks (noise, yamux, TCP, identify, ping, kad under our id, gossipsub 1.1) and two protocols
// of the test: an echo, and an rpc in Tolsey's framing that answers in capitals.
import { createInterface } from 'node:readline'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { gossipsub } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import { kadDHT } from '@libp2p/kad-dht'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { byteStream } from '@libp2p/utils'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { CID } from 'multiformats/cid'
import * as Digest from 'multiformats/hashes/digest'
import { peerIdFromString } from '@libp2p/peer-id'

const ECHO = '/tolsey/echo/1'
const UPPER = '/tolsey/upper/1'
const KAD = '/tolsey/kad/1.0.0'

const node = await createLibp2p({
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: {
    identify: identify(),
    ping: ping(),
    dht: kadDHT({ protocol: KAD, clientMode: false, peerInfoMapper: peer => peer }),
    pubsub: gossipsub({ allowPublishToZeroTopicPeers: true, emitSelf: false, globalSignaturePolicy: 'StrictSign' })
  }
})

await node.handle(ECHO, async stream => {
  for await (const chunk of stream) {
    if (!stream.send(chunk)) await stream.onDrain()
  }
  await stream.close()
})

const frame = (...parts) => {
  const body = Buffer.concat(parts)
  const head = Buffer.alloc(4)
  head.writeUInt32BE(body.length)
  return Buffer.concat([head, body])
}

const readFrame = async bytes => {
  const head = Buffer.from((await bytes.read({ bytes: 4 })).subarray())
  const size = head.readUInt32BE()
  return size === 0 ? Buffer.alloc(0) : Buffer.from((await bytes.read({ bytes: size })).subarray())
}

await node.handle(UPPER, async stream => {
  const bytes = byteStream(stream)
  const request = await readFrame(bytes)
  await bytes.write(frame(Buffer.from([0]), Buffer.from(request.toString().toUpperCase())))
  await stream.close()
})

const inbox = []
node.services.pubsub.addEventListener('message', event => {
  inbox.push([event.detail.from?.toString(), Buffer.from(event.detail.data).toString()])
})

const key = hex => CID.createV1(0x55, Digest.decode(Buffer.from(hex, 'hex')))

const commands = {
  addrs: async () => node.getMultiaddrs().map(String),
  dial: async ({ addr }) => (await node.dial(multiaddr(addr))).remotePeer.toString(),
  ping: async ({ peer }) => node.services.ping.ping(peerIdFromString(peer)),
  protocols: async ({ peer }) => {
    const id = peerIdFromString(peer)
    return await node.peerStore.has(id) ? (await node.peerStore.get(id)).protocols : []
  },
  hangup: async ({ peer }) => node.hangUp(peerIdFromString(peer)),
  echo: async ({ peer, size }) => {
    const stream = await node.dialProtocol(peerIdFromString(peer), ECHO)
    const sent = Buffer.alloc(size, 'tolsey ')
    const reading = (async () => {
      const got = []
      let total = 0
      for await (const chunk of stream) {
        got.push(Buffer.from(chunk.subarray()))
        total += chunk.byteLength
        if (total >= size) break
      }
      return Buffer.concat(got)
    })()
    for (let at = 0; at < size; at += 65536) {
      if (!stream.send(sent.subarray(at, at + 65536))) await stream.onDrain()
    }
    const equal = sent.equals(await reading)
    await stream.close()
    return equal
  },
  rpc: async ({ peer, text }) => {
    const stream = await node.dialProtocol(peerIdFromString(peer), UPPER)
    const bytes = byteStream(stream)
    await bytes.write(frame(Buffer.from(text)))
    const reply = await readFrame(bytes)
    await stream.close()
    return [reply[0], reply.subarray(1).toString()]
  },
  provide: async ({ multihash }) => {
    await node.contentRouting.provide(key(multihash), { signal: AbortSignal.timeout(10_000) })
    return true
  },
  find: async ({ multihash }) => {
    for await (const found of node.contentRouting.findProviders(key(multihash), { signal: AbortSignal.timeout(10_000) })) {
      return [found.id.toString(), found.multiaddrs.map(String)]
    }
    return null
  },
  table: async () => node.services.dht.routingTable.size,
  subscribe: async ({ topic }) => { node.services.pubsub.subscribe(topic) },
  listeners: async ({ topic }) => node.services.pubsub.getSubscribers(topic).map(String),
  publish: async ({ topic, text }) => (await node.services.pubsub.publish(topic, Buffer.from(text))).recipients.map(String),
  inbox: async () => inbox.splice(0)
}

for await (const line of createInterface({ input: process.stdin })) {
  const { command, ...rest } = JSON.parse(line)
  try {
    console.log(JSON.stringify({ ok: (await commands[command](rest)) ?? null }))
  } catch (error) {
    console.log(JSON.stringify({ error: String(error) }))
  }
}
await node.stop()
