-- What a draw is, says places.lua.

-- How the sliding sum of the draw that begins there stands.
local function told_sliding(at)
  local length, units, over = draws[at + LENGTH], draws[at + UNITS], -draws[at + CAPACITY]
  local buckets, used, held, wait, i = trim(number_of[draws[at + FIELD]], length), 0, 0, 0, 1
  for bucket = 2, #buckets, 3 do used, held = used + buckets[bucket], held + buckets[bucket + 1] end
  over = over + used + units
  while units > 0 and over > 0 and wait >= 0 do
    wait = buckets[i] and buckets[i] + length - now or -1
    over = over - (buckets[i + 1] or 0)
    i = i + 3
  end
  return used, #buckets > 0 and buckets[#buckets - 2] + length - now or 0, wait, held
end

-- 1 or 0, then of every draw how its sum stands: used, reset, wait (-1: its units never fit), held; and whether all
-- that are enforced fit. Open holds may end at any time, so soon.
local function told(granted)
  local all = {granted, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil}
  local fit, to = true, 2
  for at = 1, LAST, WIDTH do
    local used, reset, wait, held
    if draws[at + LENGTH] > 0 then
      used, reset, wait, held = told_sliding(at)
    else
      local number, over = number_of[draws[at + FIELD]], draws[at + OVER]
      local units, capacity = draws[at + UNITS], draws[at + CAPACITY]
      used, reset, wait = sums[number], 0, 0
      held = over > 0 and helds[number] or used
      if over > 0 and used > 0 then reset = max(over - now, 1) end
      if units > 0 and used + units > capacity then wait = units > capacity and -1 or over > 0 and reset or 1 end
    end
    if wait ~= 0 and draws[at + ENFORCED] == 1 then fit = false end
    all[to], all[to + 1], all[to + 2], all[to + 3] = used, reset, wait, held
    to = to + 4
  end
  return all, fit
end

-- End a step that takes nothing. It writes all the same, or a replica, whose figures may be old, would decide.
local function untaken(all)
  store()
  call('HDEL', SUMS, 'none')
  return all
end

local book  -- puts the units of a draw into a record that has rows; see more.lua

-- Give a hold the units of each draw, and let it live on from now. `note` is kept with it. `all`: what was told before, if anybody wants to
-- know; it is told anew. `is_first`: no hold was open before, if that is known.
local function give(record, note, all, is_first)
  local is_new, row, to = not record[2], 1, 2
  for at = 1, LAST, WIDTH do
    local field, over, edge, units = draws[at + FIELD], draws[at + OVER], draws[at + EDGE], draws[at + UNITS]
    add(field, edge, units, units)
    if is_new then
      record[row + 1], record[row + 2], record[row + 3] = draws[at + KEY], draws[at + KEPT], field
      record[row + 4], record[row + 5], row = edge, units, row + 5
    else
      book(record, at)
    end
    if all then
      all[to], all[to + 3] = all[to] + units, all[to + 3] + units
      if units > 0 and over > 0 then all[to + 1] = max(all[to + 1], over - now, 1) end
      to = to + 4
    end
  end
  local life_end = now + ARGV[3]
  written[1], written[2], words = own, packed(record, note), 2
  call('ZADD', ENDS, life_end, hold)
  keep(life_end)
  if is_first == nil then is_first = call('ZCARD', ENDS) == 1 end
  if is_first then call('PEXPIRE', ENDS, lives_to - now) end
  store()
  return all
end
