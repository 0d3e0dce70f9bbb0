-- What every step of the answers begins with; what each means is said in stores/answers.py.
--
-- bodies:  hash of sealed answers, by digest
-- records: hash of what is known of each, by digest, as JSON; ``: the bytes of all
-- ends:    sorted set of the digests by when they end
-- epoch:   a time, other than that of any purge before
-- claim:   of the digest of this step: when it ends, under which epoch it was made, and by whom
--
-- Any of them may be lost at any time, or be something else that somebody put there: what does not fit is a miss, and
-- goes. Each lives a little longer than anything in it matters, as its end is looked at here.
local BODIES, RECORDS, ENDS, EPOCH, CLAIM = unpack(KEYS)
local call, try = redis.call, redis.pcall

local now = tonumber(ARGV[1])
if not now then
  local time = call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

local epoch = try('GET', EPOCH)
if type(epoch) ~= 'string' or #epoch > 15 or not string.match(epoch, '^%d+$') then epoch = nil end

-- Who has the claim, if it is in force.
local function held()
  local value = try('GET', CLAIM)
  if type(value) ~= 'string' then return nil end
  local ends, under, by = string.match(value, '^(%d+) (%d+) (.*)$')
  return ends and tonumber(ends) > now and under == epoch and by or nil
end

local function claim(by, life)
  call('SET', CLAIM, string.format('%.0f %s %s', now + life, epoch, by), 'PX', life + SLACK)
end
