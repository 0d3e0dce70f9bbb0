-- What every step of the counters begins with; what each means is said in memory_counters.py.
--
-- All keys of a slot are declared, and the sums are fields of one of them: so a step may close other callers' holds
-- without touching a key that it did not name. Each lives for a day or two longer than anything in it matters.
--
-- sums:  hash. `o:<key>`: a number; `c<start>_<end>:<key>`: units, and how many of them open holds have, packed;
--        `s<length>:<key>`: {edge, units, of them held, ...}, packed, by edge; `h<hold>`: its record, packed; ``: the
--        time up to which the keys of the slot live; `since`, `renewed` and `calm`: see renew.lua
-- ends:  sorted set of the open holds, and of no others, by the end of their lives
-- past:  sorted set of what can be forgotten, by time: fields of sums
-- usage: stream of events
-- done:  when the hold of this step was settled
--
-- A record is {0, or when it was closed, row, row, ...} without the rows' braces. A row is one place that the hold has
-- units at, {key, kept, field, edge, units}; rows are in the order in which units were taken. Behind it, packed as a
-- value of its own, comes the note of the hold.
--
-- DAY, MARK, GRACE, QUIET and CALM are the port's; SWEEP is how much a step forgets, EVENTS about the most that wait on
-- the bus. This runs for every call of the gateway, in the one thread of Redis, so the numbers of commands, functions
-- and tables count. A function is made anew at every step: those that few steps need are made where they are needed. A
-- table that grows is moved each time: those of every step begin with room for four draws.
-- Redis refuses a step for want of memory, or because it is a replica, at its first write or not at all: so it is taken
-- whole, or not.
local SUMS, ENDS, PAST, USAGE, DONE = unpack(KEYS)
local CALENDAR, SLIDING, OPEN = 99, 115, 111  -- first letters: c, s, o
local LENGTH_OF = '^s(%d+):'
local call, kind, packed, unpacked = redis.call, string.byte, cmsgpack.pack, cmsgpack.unpack
local max, min = math.max, math.min

local hold = ARGV[2]
local own = 'h' .. hold
local now = tonumber(ARGV[1])
if not now then
  local time = call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

-- The sums that this step knows, numbered in the order in which they were read. Helds: of calendar sums.
local number_of, count, fields, sums = {}, 0, {nil, nil, nil, nil}, {nil, nil, nil, nil}
local helds, changed, unknown = {nil, nil, nil, nil}, {nil, nil, nil, nil}, {}
local lives_to, own_packed, began  -- as the last read() found them
local written, words = {nil, nil, nil, nil, nil, nil, nil, nil, nil, nil}, 0  -- fields and values that store() writes

-- What the sums of sliding windows need; nil while no such sum is known.
local trim, add_to_bucket

local function know_sliding()
  -- Let go of the buckets that have left the window.
  function trim(number, length)
    local buckets, first = sums[number], 1
    while buckets[first] and buckets[first] + length <= now do first = first + 3 end
    if first > 1 then sums[number] = {unpack(buckets, first)} end
    return sums[number]
  end

  function add_to_bucket(number, edge, units, held)
    local length = tonumber(string.match(fields[number], LENGTH_OF))
    local buckets = trim(number, length)
    if edge + length <= now then return end
    local at = #buckets - 2
    while at > 0 and buckets[at] > edge do at = at - 3 end
    if at < 1 or buckets[at] ~= edge then
      at = at + 3
      for i = at, at + 2 do table.insert(buckets, i, i == at and edge or 0) end
    end
    buckets[at + 1] = buckets[at + 1] + units
    buckets[at + 2] = min(max(0, buckets[at + 2] + held), buckets[at + 1])
    if buckets[at + 1] <= 0 then
      for _ = 1, 3 do table.remove(buckets, at) end
    end
  end
end

-- Read the sums of fields that are not known yet, every so many of a list, and in the same command what else a step
-- has to know. Where is_all, nothing is asked if all sums are known.
local function read(list, first, last, width, is_all)
  local asked, most, known = {'', own, 'since', nil, nil, nil, nil}, 3, count
  for at = first, last, width do
    local field = list[at]
    if not number_of[field] then
      count, most = count + 1, most + 1
      number_of[field], fields[count], asked[most] = count, field, field
    end
  end
  if is_all and most == 3 then return end
  local found = call('HMGET', SUMS, unpack(asked, 1, most))
  lives_to, own_packed, began = tonumber(found[1] or 0), found[2], found[3]
  for at = 4, most do
    local number, sum, sort = known + at - 3, found[at], kind(asked[at])
    if not sum then unknown[number] = true end
    if sort == SLIDING then
      if not trim then know_sliding() end
      sums[number] = sum and unpacked(sum) or {}
    elseif sort == CALENDAR and sum then
      sums[number], helds[number] = unpacked(sum)
    else
      sums[number], helds[number] = tonumber(sum or 0), 0
    end
  end
end

-- Let the keys of the slot live on for a day after this time. A key that was empty has lost its time to live.
local function keep(time)
  lives_to = lives_to or tonumber(call('HGET', SUMS, '') or 0)
  local wanted = max(time, now) + DAY
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
    if kind(over) == SLIDING then
      local sum = call('HGET', SUMS, over)
      local buckets = sum and unpacked(sum) or {}
      until_then = buckets[1] and buckets[#buckets - 2] + string.match(over, LENGTH_OF)
    end
    if until_then and until_then > now then
      call('ZADD', PAST, until_then + MARK, over)
    else
      call('ZREM', PAST, over)
      call('HDEL', SUMS, over)
    end
  end
end

-- Add units at a place; below 0 they go back. What is forgotten has nothing to give back. `held`: how many more, or
-- fewer, of them an open hold has.
local function add(field, edge, units, held)
  if units == 0 and held == 0 then return end
  local number = number_of[field]
  changed[number] = true
  if kind(field) == SLIDING then
    add_to_bucket(number, edge, units, held)
  else
    local sum = max(0, sums[number] + units)
    sums[number], helds[number] = sum, min(max(0, helds[number] + held), sum)
  end
end

-- Write what changed. What was not there before is to be forgotten some day.
local function store()
  for number = 1, count do
    if changed[number] then
      local field, sum = fields[number], sums[number]
      local sort = kind(field)
      if sum == 0 or (sort == SLIDING and not sum[1]) then
        call('HDEL', SUMS, field)
      else
        if sort == CALENDAR then sum = packed(sum, helds[number]) elseif sort == SLIDING then sum = packed(sum) end
        written[words + 1], written[words + 2], words = field, sum, words + 2
        if unknown[number] and sort ~= OPEN then
          local length, over = string.match(field, LENGTH_OF), string.match(field, '^c.-_(%d+):')
          forget_at(max(now, over and tonumber(over) or now + length) + MARK, field)
        end
      end
    end
  end
  if words > 0 then call('HSET', SUMS, unpack(written, 1, words)) end
end

-- The record of this step's hold as it was read, and its note; nothing where it was closed a day ago.
local function own_record()
  if not own_packed then return nil end
  local record, note = unpacked(own_packed)
  if record[1] == 0 or record[1] + DAY > now then return record, note end
  call('HDEL', SUMS, own)
  call('ZREM', PAST, own)
  return nil
end

local function is_settled()
  local time = call('GET', DONE)
  return time and time + MARK > now
end

