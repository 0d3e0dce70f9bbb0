-- What a draw is, says places.lua.

-- How a sliding sum stands: used, reset, wait (-1: these units never fit), held.
local function reading_sliding(draw, units)
  local length = draw[LENGTH]
  local buckets, used, held, wait, i = trim(draw[FIELD], length), 0, 0, 0, 1
  for at = 2, #buckets, 3 do used, held = used + buckets[at], held + buckets[at + 1] end
  local over = used + units - draw[CAPACITY]
  while units > 0 and over > 0 and wait >= 0 do
    wait = buckets[i] and buckets[i] + length - now or -1
    over = over - (buckets[i + 1] or 0)
    i = i + 3
  end
  return used, #buckets > 0 and buckets[#buckets - 2] + length - now or 0, wait, held
end

-- How a draw's sum stands, and how long until so many units fit. Open holds may end at any time, so soon.
local function reading(draw, units)
  if draw[LENGTH] > 0 then return reading_sliding(draw, units) end
  local used, over, reset, wait = sums[draw[FIELD]], draw[OVER], 0, 0
  if over and used > 0 then reset = math.max(over - now, 1) end
  if units > 0 and used + units > draw[CAPACITY] then
    wait = units > draw[CAPACITY] and -1 or over and reset or 1
  end
  return used, reset, wait, over and helds[draw[FIELD]] or used
end

-- 1 or 0, then used, reset, wait and held of every draw. `more`: the units that are asked for, if not all of the draw's.
local function told(granted, draws, more)
  local all = {granted}
  for i, draw in ipairs(draws) do
    local at = 4 * i - 2
    all[at], all[at + 1], all[at + 2], all[at + 3] = reading(draw, more and (more[i] or 0) or draw[UNITS])
  end
  return all
end

-- End a step that takes nothing. It writes all the same, or a replica, whose figures may be old, would decide.
local function untaken(all)
  store()
  call('HDEL', SUMS, 'none')
  return all
end

-- How many units each draw lacks of what its hold shall have.
local function lacking(record, draws)
  local held, more = {}, {}
  for i = 2, #record, 5 do held[record[i]] = (held[record[i]] or 0) + record[i + 4] end
  for i, draw in ipairs(draws) do more[i] = math.max(0, draw[UNITS] - (held[draw[KEY]] or 0)) end
  return more
end

-- Put units of a draw into a record, at the place of now. `is_new`: it has no row of this key.
local function book(record, draw, units, is_new)
  local key, field, edge = draw[KEY], draw[FIELD], draw[EDGE]
  if not is_new then
    local known, same
    for i = 2, #record, 5 do
      if record[i] == key then
        known, record[i + 1] = true, draw[KEPT]
        if record[i + 2] == field and record[i + 3] == edge then same = i end
      end
    end
    if same then
      record[same + 4] = record[same + 4] + units
      return
    end
    if known and units == 0 then return end
  end
  local at = #record
  record[at + 1], record[at + 2], record[at + 3], record[at + 4], record[at + 5] = key, draw[KEPT], field, edge, units
end

-- Write the record of this step's hold, which lives on from now.
local function remember(record)
  local life_end = now + ARGV[3]
  call('HSET', HOLDS, hold, cmsgpack.pack(record))
  call('ZADD', ENDS, life_end, hold)
  keep(life_end)
  if call('ZCARD', ENDS) == 1 then
    call('PEXPIRE', HOLDS, lives_to - now)
    call('PEXPIRE', ENDS, lives_to - now)
  end
end

-- Give a hold so many units more of each draw, and let it live on.
local function give(record, draws, more)
  local is_new = #record == 1
  for i, draw in ipairs(draws) do
    add(draw[FIELD], draw[EDGE], more[i], more[i])
    book(record, draw, more[i], is_new)
  end
  remember(record)
  store()
end

-- Bring what a hold has up to the draws' units, or change nothing where an enforced counter lacks room.
local function take(record, draws)
  local more = lacking(record, draws)
  local all = told(1, draws, more)
  for i, draw in ipairs(draws) do
    if all[4 * i] ~= 0 and draw[ENFORCED] == 1 then all[1] = 0 end
  end
  if all[1] == 0 then return untaken(all) end
  for i, draw in ipairs(draws) do
    local at, units = 4 * i - 2, more[i]
    all[at], all[at + 3] = all[at] + units, all[at + 3] + units
    if units > 0 and draw[OVER] then all[at + 1] = math.max(all[at + 1], draw[OVER] - now, 1) end
  end
  give(record, draws, more)
  return all
end

-- Whether the store does not remember since the time that its caller knows, or is not trusted yet.
local function has_forgotten(since)
  if since == '0' then return false end
  local began = call('HGET', SUMS, 'since')
  return began ~= since or tonumber(began) > now
end
