-- A draw is {kept, units, key, capacity, 1 where it is enforced, length, field, end, field, end, ...}: of a calendar
-- counter the field and end of each window, of the others only the field. Length is that of a sliding window, or 0.
-- Located, it has at FIELD, OVER and EDGE which sum is drawn on, until when (open holds: nil), and where in it.
local KEPT, UNITS, KEY, CAPACITY, ENFORCED, LENGTH, FIELD, OVER, EDGE = 1, 2, 3, 4, 5, 6, 7, 8, 9

-- Say where each of the draws is at a time, and read the sums.
local function locate(draws, time)
  local fields = {}
  for i, draw in ipairs(draws) do
    local window, length = FIELD, draw[LENGTH]
    while draw[window + 2] and draw[window + 1] <= time do window = window + 2 end
    draw[FIELD], draw[OVER], draw[EDGE] = draw[window], draw[window + 1], 0
    if length > 0 then
      local width = math.max(1, math.floor(length / 32))
      draw[EDGE] = time - time % width + width - 1
      draw[OVER] = draw[EDGE] + length
    end
    fields[i] = draw[FIELD]
  end
  fetch(fields)
  return draws
end
