-- What wrk sends, and what it says at its end. Arguments, after wrk's own and the URL: the paths, separated by commas, of
-- which each request gets the next one, and
--   hit FILE            the first line of FILE, over and over
--   each FILE           the lines of FILE in their order, over and over
--   zipf FILE S SEED    lines of FILE, the k-th in proportion to 1 / k^S
--   miss MODEL ROWS RUN rows that no request has asked before: not of this run, not of one with another number
-- MODEL is penguins or digits, RUN below 2^14.

local threads = {}
function setup(thread)
    thread:set("number", #threads)
    threads[#threads + 1] = thread
end

local paths, turn = {}, 0
local function request_of(body)
    turn = turn % #paths + 1
    return wrk.format("POST", paths[turn], nil, body)
end

local function in_turns(requests)
    local next = 0
    return function()
        next = next % #requests + 1
        return requests[next]
    end
end

-- Seconds by the clock, with their fraction, which Lua has not.
local ffi = require("ffi")
ffi.cdef("typedef struct { long seconds, microseconds; } shoal_time; int gettimeofday(shoal_time *, void *);")
local time = ffi.new("shoal_time[1]")
local function now()
    ffi.C.gettimeofday(time, nil)
    return tonumber(time[0].seconds) + tonumber(time[0].microseconds) / 1e6
end

local function lines_of(path)
    local lines = {}
    for line in io.lines(path) do lines[#lines + 1] = line end
    return lines
end

-- --- hit --------------------------------------------------------------------------------------------------------------
local function hit(path)
    local body, requests = lines_of(path)[1], {}
    for index = 1, #paths do requests[index] = request_of(body) end
    return in_turns(requests)
end

-- --- each -------------------------------------------------------------------------------------------------------------
local function each(path)
    local requests = {}
    for index, line in ipairs(lines_of(path)) do requests[index] = request_of(line) end
    return in_turns(requests)
end

-- --- zipf -------------------------------------------------------------------------------------------------------------
local function zipf(path, s, seed)
    local requests, cumulative, total = {}, {}, 0
    for rank, line in ipairs(lines_of(path)) do
        requests[rank] = request_of(line)
        total = total + rank ^ -s
        cumulative[rank] = total
    end
    math.randomseed(seed * 64 + number)
    return function()
        local drawn, low, high = math.random() * total, 1, #requests
        while low < high do
            local middle = math.floor((low + high) / 2)
            if cumulative[middle] < drawn then low = middle + 1 else high = middle end
        end
        return requests[low]
    end
end

-- --- miss -------------------------------------------------------------------------------------------------------------
-- A row's number is made of its run (14 bits), its thread (4) and a count (26). It is spread over three pieces of 22
-- bits, each by an odd factor, which loses nothing, so that rows in a row do not look alike. All of it fits a double.
local PIECE = 2 ^ 22
local function pieces(run, count)
    local low, high = count % PIECE, math.floor(count / PIECE) + 16 * number + 256 * run
    return low * 2654435 % PIECE,
        (high * 1597463 + low * 1181783) % PIECE,
        (low * 3266489 + high * 2246823) % PIECE
end

-- Steps that float32 can tell apart, as in payloads.py.
local function penguin(a, b, c)
    return string.format("[%.7f,%.7f,%.7f]", 34 + a / 2 ^ 18, 13.5 + b / 2 ^ 19, 172 + c / 2 ^ 16)
end

-- An image is eight lines of eight pixels. In each line four of them carry two bits, so a line has 256 faces and the
-- eight of them 64 bits.
local INK = {"00111100", "01100110", "01101110", "01110110", "01100110", "01100110", "00111100", "00000000"}
local faces = {}
for line, ink in ipairs(INK) do
    faces[line] = {}
    for bits = 0, 255 do
        local pixels = {}
        for column = 1, 8 do
            local shade = column <= 4 and math.floor(bits / 4 ^ (column - 1)) % 4 or 0
            pixels[column] = 12 * tonumber(ink:sub(column, column)) + shade
        end
        faces[line][bits] = "[" .. table.concat(pixels, ",") .. "]"
    end
end
local function digit(a, b, c)
    local function byte(piece, place) return math.floor(piece / 256 ^ place) % 256 end
    -- The 22 bits of each piece fill two lines and six bits of a third.
    return "[" .. faces[1][byte(a, 0)] .. "," .. faces[2][byte(a, 1)] .. "," .. faces[3][byte(a, 2)] .. ","
        .. faces[4][byte(b, 0)] .. "," .. faces[5][byte(b, 1)] .. "," .. faces[6][byte(b, 2)] .. ","
        .. faces[7][byte(c, 0)] .. "," .. faces[8][byte(c, 1)] .. "]"
end

local function miss(model, rows, run)
    local row = model == "digits" and digit or penguin
    local count = 0
    local function fresh()
        count = count + 1
        return row(pieces(run, count))
    end
    if rows == 0 then
        return function() return request_of('{"features":' .. fresh() .. "}") end
    end
    return function()
        local batch = {}
        for index = 1, rows do batch[index] = fresh() end
        return request_of('{"instances":[' .. table.concat(batch, ",") .. "]}")
    end
end

-- --- what wrk calls ---------------------------------------------------------------------------------------------------
function init(arguments)
    wrk.headers["Content-Type"] = "application/json"
    for path in arguments[1]:gmatch("[^,]+") do paths[#paths + 1] = path end
    local workload, first, make = arguments[2], arguments[3], nil
    if workload == "hit" then
        make = hit(first)
    elseif workload == "each" then
        make = each(first)
    elseif workload == "zipf" then
        make = zipf(first, tonumber(arguments[4]), tonumber(arguments[5]))
    else
        make = miss(first, tonumber(arguments[4]), tonumber(arguments[5]))
    end
    -- A connection asks as soon as it is answered, so but for the first ones this is also when an answer came.
    function request()
        last_asked = now()
        first_asked = first_asked or last_asked
        return make()
    end
end

function done(summary, latency, requests)
    local first, last = math.huge, 0
    for _, thread in ipairs(threads) do
        first = math.min(first, thread:get("first_asked") or math.huge)
        last = math.max(last, thread:get("last_asked") or 0)
    end
    local p50, duration, errors = latency:percentile(50) / 1e6, summary.duration / 1e6, summary.errors
    io.write(string.format(
        '{"requests":%d,"seconds":%.6f,"mean_seconds":%.6f,"p50_seconds":%.6f,"p99_seconds":%.6f,"max_seconds":%.6f,'
            .. '"errors":{"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}}\n',
        summary.requests, math.max(last - first, duration - p50),
        latency.mean / 1e6, p50, latency:percentile(99) / 1e6, latency.max / 1e6,
        errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
