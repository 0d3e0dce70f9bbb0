-- The bytes of all answers. Where a key has gone, or is not ours, what is left does not fit together: then all go.
local function counted()
  local bodies, records, ends = try('HLEN', BODIES), try('HLEN', RECORDS), try('ZCARD', ENDS)
  if bodies == ends and records == 0 and bodies == 0 then return 0 end
  if bodies == ends and type(records) == 'number' and records == bodies + 1 then
    local bytes = tonumber(call('HGET', RECORDS, ''))
    if bytes and bytes >= 0 and bytes < 1e15 then return bytes end
  end
  call('UNLINK', BODIES, RECORDS, ENDS)
  return 0
end

-- Forget these, or, where `most` is given, of the first as many as leave no more bytes than that. Tells the bytes.
local function drop(names, bytes, most)
  local going = {}
  for _, name in ipairs(names) do
    if most and bytes <= most then break end
    bytes = bytes - call('HSTRLEN', BODIES, name) - BESIDE
    going[#going + 1] = name
  end
  if going[1] then
    call('HDEL', BODIES, unpack(going))
    call('HDEL', RECORDS, unpack(going))
    call('ZREM', ENDS, unpack(going))
  end
  return bytes
end
