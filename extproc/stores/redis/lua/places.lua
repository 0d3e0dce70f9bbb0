-- A draw comes as {kept, units, key, capacity, 1 where it is enforced, length, number of windows, field, end, field,
-- end, ...}, the next right after it: of a calendar counter the field and end of each window, of the others one field
-- and 0. Length is that of a sliding window, or 0. Located, it has at FIELD, OVER and EDGE which sum is drawn on, until
-- when (open holds: 0), and where in it; and each begins WIDTH after the one before, the last at LAST.
local KEPT, UNITS, KEY, CAPACITY, ENFORCED, LENGTH, FIELD, OVER, EDGE, WIDTH = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9
local draws, LAST

-- Say where each of the draws is at a time, and read the sums.
local function locate(packed_draws, time)
  draws = {unpacked(packed_draws)}
  local from, to = 1, 1
  while draws[from] do
    local window, ends = from + 7, from + 5 + 2 * draws[from + 6]
    while window < ends and draws[window + 1] <= time do window = window + 2 end
    local field, over, edge, length = draws[window], draws[window + 1], 0, draws[from + LENGTH]
    if length > 0 then
      local width = max(1, math.floor(length / 32))
      edge = time - time % width + width - 1
      over = edge + length
    end
    if to < from then
      for i = 0, LENGTH do draws[to + i] = draws[from + i] end
    end
    draws[to + FIELD], draws[to + OVER], draws[to + EDGE] = field, over, edge
    from, to = ends + 2, to + WIDTH
  end
  LAST = to - WIDTH
  read(draws, 1 + FIELD, LAST + FIELD, WIDTH)
end

-- Whether the store, which has been there since that time, does not remember since the time that its caller knows, or
-- is not trusted yet.
local function has_forgotten(since, is_since)
  return since ~= '0' and (is_since ~= since or tonumber(is_since) > now)
end
