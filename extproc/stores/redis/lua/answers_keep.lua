-- ARGV: now or '', digest, sealed, labels, life, epoch, claim or '', most bytes of all
local digest, sealed, life = ARGV[2], ARGV[3], ARGV[5]

local function keep()
  if epoch ~= ARGV[6] then return 0 end
  -- Redis refuses a step for want of memory at its first write or not at all. This must be one that may be refused.
  call('SET', EPOCH, epoch, 'PX', EPOCH_LIFE)
  local room = ARGV[8] - #sealed - BESIDE
  local bytes = counted()
  if call('ZSCORE', ENDS, digest) then bytes = drop({digest}, bytes) end
  bytes = drop(call('ZRANGEBYSCORE', ENDS, '-inf', now, 'LIMIT', 0, AT_ONCE), bytes)
  for _ = 1, ROUNDS do
    if bytes <= room then break end
    bytes = drop(call('ZRANGE', ENDS, 0, AT_ONCE - 1), bytes, room)
  end
  local fits = bytes <= room
  if fits then
    bytes = bytes + #sealed + BESIDE
    call('HSET', BODIES, digest, sealed)
    call('HSET', RECORDS, digest, string.format('[%.0f,%.0f,%d,', now, now + life, #sealed) .. ARGV[4])
    call('ZADD', ENDS, now + life, digest)
  end
  call('HSET', RECORDS, '', bytes)
  for at = 1, 3 do
    if call('PTTL', KEYS[at]) < life + SLACK then call('PEXPIRE', KEYS[at], life + SLACK) end
  end
  return fits and 1 or 0
end

local mine = ARGV[7] ~= '' and held() == ARGV[7]
local kept = keep()
if mine then call('DEL', CLAIM) end
return kept
