-- What every step of the neighbours begins with; what each means is said in stores/neighbours.py.
--
-- rows:  hash of them, by partition and digest: number and end in fifteen digits each, then what is sealed;
--        ``: the bytes of all
-- order: sorted set of partition, number and digest, all with the same score
-- ends:  sorted set of the same by when they end
-- epoch: of the answers
--
-- Any of them may be lost at any time, or be something else that somebody put there: what does not fit goes.
local ROWS, ORDER, ENDS, EPOCH = unpack(KEYS)
local call, try = redis.call, redis.pcall
local partition = ARGV[2] .. ':'

local now = tonumber(ARGV[1])
if not now then
  local time = call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

local epoch = try('GET', EPOCH)
if type(epoch) ~= 'string' or #epoch > 15 or not string.match(epoch, '^%d+$') then epoch = nil end

local function digits(number)
  return string.format('%015.0f', number)
end

-- Number and digest of a member of order and ends.
local function parts(member)
  local number, digest = string.match(member, ':(%d+):(%x*)$')
  return number, digest or ''
end
