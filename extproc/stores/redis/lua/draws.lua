-- What a draw is, says places.lua.

-- How a sliding sum stands: used, reset, wait (-1: these units never fit).
local function reading_sliding(draw, units)
  local length = draw[LENGTH]
  local buckets, used, wait, i = trim(draw[FIELD], length), 0, 0, 1
  for at = 2, #buckets, 2 do used = used + buckets[at] end
  local over = used + units - draw[CAPACITY]
  while units > 0 and over > 0 and wait >= 0 do
    wait = buckets[i] and buckets[i] + length - now or -1
    over = over - (buckets[i + 1] or 0)
    i = i + 2
  end
  return used, #buckets > 0 and buckets[#buckets - 1] + length - now or 0, wait
end

-- How a draw's sum stands, and how long until so many units fit. Open holds may end at any time, so soon.
local function reading(draw, units)
  if draw[LENGTH] > 0 then return reading_sliding(draw, units) end
  local used, over, reset, wait = sums[draw[FIELD]], draw[OVER], 0, 0
  if over and used > 0 then reset = math.max(over - now, 1) end
  if units > 0 and used + units > draw[CAPACITY] then
    wait = units > draw[CAPACITY] and -1 or over and reset or 1
  end
  return used, reset, wait
end

-- 1 or 0, then used, reset and wait of every draw. `more`: the units that are asked for, if not all of the draw's.
local function told(granted, draws, more)
  local all = {granted}
  for i, draw in ipairs(draws) do
    all[3 * i - 1], all[3 * i], all[3 * i + 1] = reading(draw, more and (more[i] or 0) or draw[UNITS])
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
  for i = 3, #record, 5 do held[record[i]] = (held[record[i]] or 0) + record[i + 4] end
  for i, draw in ipairs(draws) do more[i] = math.max(0, draw[UNITS] - (held[draw[KEY]] or 0)) end
  return more
end

-- Put units of a draw into a record, at the place of now. `is_new`: it has no row of this key.
local function book(record, draw, units, is_new)
  local key, field, edge = draw[KEY], draw[FIELD], draw[EDGE]
  if not is_new then
    local known, same
    for i = 3, #record, 5 do
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
  record[1] = now + ARGV[3]
  call('HSET', HOLDS, hold, cmsgpack.pack(record))
  call('ZADD', ENDS, record[1], hold)
  keep(record[1])
  if call('ZCARD', ENDS) == 1 then
    call('PEXPIRE', HOLDS, lives_to - now)
    call('PEXPIRE', ENDS, lives_to - now)
  end
end

-- Bring what a hold has up to the draws' units, or change nothing where an enforced counter lacks room.
local function take(record, draws)
  local is_new, more = #record == 2, lacking(record, draws)
  local all = told(1, draws, more)
  for i, draw in ipairs(draws) do
    if all[3 * i + 1] ~= 0 and draw[ENFORCED] == 1 then all[1] = 0 end
  end
  if all[1] == 0 then return untaken(all) end
  for i, draw in ipairs(draws) do
    local units = more[i]
    add(draw[FIELD], draw[EDGE], units)
    book(record, draw, units, is_new)
    all[3 * i - 1] = all[3 * i - 1] + units
    if units > 0 and draw[OVER] then all[3 * i] = math.max(all[3 * i], draw[OVER] - now, 1) end
  end
  remember(record)
  store()
  return all
end
