-- What every step of the counters begins with; what each means is said in memory_counters.py.
--
-- All keys of a slot are declared, and the sums are fields of one of them: so a step may close other callers' holds
-- without touching a key that it did not name. Each lives for a day or two longer than anything in it matters.
--
-- sums:  hash. `o:<key>`: a number; `c<start>_<end>:<key>`: units, and how many of them open holds have, packed;
--        `s<length>:<key>`: {edge, units, of them held, ...}, packed, by edge; ``: the time up to which the keys of the slot live; `since`, `renewed` and
--        `calm`: see renew.lua
-- holds: hash of a hold's name to its record, packed
-- ends:  sorted set of the open holds, and of no others, by the end of their lives
-- past:  sorted set of what can be forgotten, by time: `h<hold>`, or the field of a sum
-- usage: stream of events
-- done:  when the hold of this step was settled
--
-- A record is {0, or when it was closed, row, row, ...} without the rows' braces. A row is one place that the hold has
-- units at, {key, kept, field, edge, units}; rows are in the order in which units were taken.
--
-- DAY, MARK, GRACE, QUIET and CALM are the port's; SWEEP is how much a step forgets, EVENTS about the most that wait on the bus. This
-- runs for every call of the gateway, in the one thread of Redis: the numbers of commands, closures and tables count (a
-- fifth of its time is Lua's collector). Redis refuses a step for want of memory, or because it is a replica, at its
-- first write or not at all: so it is taken whole, or not.
local SUMS, HOLDS, ENDS, PAST, USAGE, DONE = unpack(KEYS)
local CALENDAR, SLIDING, OPEN, RECORD = 99, 115, 111, 104  -- first letters: c, s, o, h
local LENGTH_OF = '^s(%d+):'
local call, kind = redis.call, string.byte

local hold = ARGV[2]
local now = tonumber(ARGV[1])
if not now then
  local time = call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

local sums, helds, changed, unknown, lives_to = {}, {}, {}, {}, nil  -- helds: of calendar sums

-- Read the sums of fields that are not known yet.
local function fetch(fields)
  local missing, count = {}, 0
  for _, field in ipairs(fields) do
    if sums[field] == nil then
      count = count + 1
      missing[count] = field
    end
  end
  if count == 0 then return end
  missing[count + 1] = ''
  local found = call('HMGET', SUMS, unpack(missing))
  lives_to = tonumber(found[count + 1] or 0)
  for i = 1, count do
    local field, sum = missing[i], found[i]
    unknown[field] = not sum
    local sort = kind(field)
    if sort == SLIDING then
      sums[field] = sum and cmsgpack.unpack(sum) or {}
    elseif sort == CALENDAR and sum then
      sums[field], helds[field] = cmsgpack.unpack(sum)
    else
      sums[field], helds[field] = tonumber(sum or 0), 0
    end
  end
end

-- Let the keys of the slot live on for a day after this time. A key that was empty has lost its time to live.
local function keep(time)
  lives_to = lives_to or tonumber(call('HGET', SUMS, '') or 0)
  local wanted = math.max(time, now) + DAY
  if lives_to < wanted then
    lives_to = wanted + DAY
    call('HSET', SUMS, '', lives_to)
    for i = 1, #KEYS - 1 do call('PEXPIRE', KEYS[i], lives_to - now) end
  end
end

-- Put something among what is to be forgotten, and forget some whose time has come: so there is never much of it.
local function forget_at(time, name)
  keep(time)
  call('ZADD', PAST, time, name)
  if call('ZCARD', PAST) == 1 then call('PEXPIRE', PAST, lives_to - now) end
  for _, over in ipairs(call('ZRANGEBYSCORE', PAST, '-inf', now, 'LIMIT', 0, SWEEP)) do
    local until_then
    if kind(over) == RECORD then
      call('HDEL', HOLDS, string.sub(over, 2))
    elseif kind(over) == SLIDING then
      local packed = call('HGET', SUMS, over)
      local buckets = packed and cmsgpack.unpack(packed) or {}
      until_then = buckets[1] and buckets[#buckets - 2] + string.match(over, LENGTH_OF)
    end
    if until_then and until_then > now then
      call('ZADD', PAST, until_then + MARK, over)
    else
      call('ZREM', PAST, over)
      if kind(over) ~= RECORD then call('HDEL', SUMS, over) end
    end
  end
end

-- Let go of the buckets that have left a sliding window.
local function trim(field, length)
  local buckets, first = sums[field], 1
  while buckets[first] and buckets[first] + length <= now do first = first + 3 end
  if first > 1 then sums[field] = {unpack(buckets, first)} end
  return sums[field]
end

local function add_to_bucket(field, edge, units, held)
  local length = tonumber(string.match(field, LENGTH_OF))
  local buckets = trim(field, length)
  if edge + length <= now then return end
  local at = #buckets - 2
  while at > 0 and buckets[at] > edge do at = at - 3 end
  if at < 1 or buckets[at] ~= edge then
    at = at + 3
    for i = at, at + 2 do table.insert(buckets, i, i == at and edge or 0) end
  end
  buckets[at + 1] = buckets[at + 1] + units
  buckets[at + 2] = math.min(math.max(0, buckets[at + 2] + held), buckets[at + 1])
  if buckets[at + 1] <= 0 then
    for _ = 1, 3 do table.remove(buckets, at) end
  end
end

-- Add units at a place; below 0 they go back. What is forgotten has nothing to give back. `held`: how many more, or
-- fewer, of them an open hold has.
local function add(field, edge, units, held)
  if units == 0 and held == 0 then return end
  changed[field] = true
  if kind(field) == SLIDING then
    add_to_bucket(field, edge, units, held)
  else
    sums[field] = math.max(0, sums[field] + units)
    helds[field] = math.min(math.max(0, helds[field] + held), sums[field])
  end
end

-- Write the sums that changed.
local function store()
  local written, count = {}, 0
  for field in pairs(changed) do
    local sum, sort = sums[field], kind(field)
    if sum == 0 or (sort == SLIDING and #sum == 0) then
      call('HDEL', SUMS, field)
    else
      written[count + 1] = field
      written[count + 2] = sum
      if sort == SLIDING then
        written[count + 2] = cmsgpack.pack(sum)
      elseif sort == CALENDAR then
        written[count + 2] = cmsgpack.pack(sum, helds[field])
      end
      count = count + 2
      if unknown[field] and sort ~= OPEN then
        local length, over = string.match(field, LENGTH_OF), string.match(field, '^c.-_(%d+):')
        forget_at(math.max(now, over and tonumber(over) or now + length) + MARK, field)
      end
    end
  end
  if count > 0 then call('HSET', SUMS, unpack(written)) end
end

-- How many units of each row stay when so many are used of each key: the first taken are the first used, and what is
-- more than was held counts at the last place. Of open holds none stay.
local function staying(record, used)
  local stay, left, last = {}, {}, {}
  for i = 2, #record, 5 do last[record[i]] = i end
  for i = 2, #record, 5 do
    local key, units = record[i], record[i + 4]
    local rest = left[key] or used[key] or 0
    if kind(record[i + 2]) == OPEN then rest = 0 end
    stay[i] = i == last[key] and rest or math.min(rest, units)
    left[key] = rest - stay[i]
  end
  return stay
end

-- How many units stay of each key of a hold that nobody settles.
local function kept_of(record)
  local held, kept = {}, {}
  for i = 2, #record, 5 do
    local key = record[i]
    held[key] = (held[key] or 0) + record[i + 4]
    kept[key] = math.min(record[i + 1], held[key])
  end
  return kept
end

-- Book the differences between what lies at the places of a hold and what is to lie there, of each all of its units
-- where nothing is said. `held`: -1 where they are held no more, 1 where they are held again.
local function move(record, before, after, held)
  local fields = {}
  for i = 2, #record, 5 do fields[#fields + 1] = record[i + 2] end
  fetch(fields)
  for i = 2, #record, 5 do
    local units = record[i + 4]
    local more = (after and after[i] or units) - (before and before[i] or units)
    add(record[i + 2], record[i + 3], more, held * units)
  end
end

local function record_of(name)
  local packed = call('HGET', HOLDS, name)
  return packed and cmsgpack.unpack(packed)
end

-- Put an event on the usage bus.
local function publish(event)
  call('XADD', USAGE, 'MAXLEN', '~', EVENTS, '*', 'event', event)
  keep(now)
  if call('XLEN', USAGE) == 1 then call('PEXPIRE', USAGE, lives_to - now) end
end

-- What obituary() of counters.py says. Numbers are written here, as cjson rounds long ones.
local function obituary(name, record, stay)
  local kept, known, parts = {}, {}, {}
  for i = 2, #record, 5 do
    local key = record[i]
    if not kept[key] then known[#known + 1] = key end
    kept[key] = (kept[key] or 0) + stay[i]
  end
  for i, key in ipairs(known) do parts[i] = cjson.encode(key) .. string.format(':%.0f', kept[key]) end
  return '{"id":' .. cjson.encode(name) .. ',"expired":true,"kept":{' .. table.concat(parts, ',') .. '}}'
end

-- Close a hold whose life is over: all but `kept` goes back.
local function expire(name, record)
  local stay = staying(record, kept_of(record))
  move(record, nil, stay, -1)
  publish(obituary(name, record, stay))
  record[1] = now
  call('HSET', HOLDS, name, cmsgpack.pack(record))
  call('ZREM', ENDS, name)
  forget_at(now + DAY, 'h' .. name)
end

-- Whether nobody has renewed holds for a while, or somebody has only just begun to again: a hold whose life is over may
-- be that of a call that runs.
local function is_calm()
  local renewed, calm = unpack(call('HMGET', SUMS, 'renewed', 'calm'))
  return renewed and (now - renewed > QUIET or (calm and now < tonumber(calm)))
end

-- Close at most so many holds whose life is over, and say how many.
local function sweep(most)
  local over = call('ZRANGEBYSCORE', ENDS, '-inf', now, 'LIMIT', 0, most)
  if not over[1] or is_calm() then return 0 end
  for _, name in ipairs(over) do
    local record = record_of(name)
    if record then expire(name, record) else call('ZREM', ENDS, name) end
  end
  return #over
end

-- The record of this step's hold; nothing where it was closed a day ago.
local function own_record()
  local record = record_of(hold)
  if not record or record[1] == 0 or record[1] + DAY > now then return record end
  call('HDEL', HOLDS, hold)
  call('ZREM', PAST, 'h' .. hold)
  return nil
end

local function is_settled()
  local time = call('GET', DONE)
  return time and time + MARK > now
end
